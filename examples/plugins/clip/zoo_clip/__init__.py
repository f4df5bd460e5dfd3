"""CLIP (arXiv 2103.00020): an image and a text tower, one space; transformers' `CLIPModel` as it is."""

import zoo

zoo.hooks(
    recognises=".facts",
    construct=".model",
    checkpoint=".model",
    sample_kinds=".facts",
    sample_options=".facts",
    sample=".zeroshot",
    loss=".zeroshot",
    batches=".zeroshot",
    evaluate=".zeroshot",
    describe=".facts",
    save=".model",
)
