"""DCGAN (arXiv 1511.06434): two networks of strided convolutions that learn against each other."""

import zoo

zoo.hooks(
    recognises=".facts",
    construct=".model",
    sample_kinds=".facts",
    sample_options=".facts",
    sample=".game",
    loss=".game",
    batches=".game",
    evaluate=".game",
    tuning=".game",
    describe=".facts",
)
