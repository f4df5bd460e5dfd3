"""Image classifiers: vision transformers as timm and transformers build them."""

import zoo

zoo.hooks(
    recognises=".facts",
    construct=".model",
    checkpoint=".model",
    heads=".facts",
    sample_kinds=".options",
    sample_options=".options",
    sample=".classify",
    loss=".classify",
    batches=".data",
    evaluate=".classify",
    describe=".facts",
    save=".model",
    forward_pass=".exporting",
)
