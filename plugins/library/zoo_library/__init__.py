"""Any model class of transformers, diffusers and PyTorch Geometric: taken where no other plugin recognises it."""

import zoo

zoo.hooks(
    recognises=".facts",
    construct=".model",
    checkpoint=".model",
    sample_kinds=".options",
    sample_options=".options",
    sample=".text",
    loss=".forward",
    batches=".batches",
    evaluate=".evaluation",
    describe=".facts",
    save=".model",
)
