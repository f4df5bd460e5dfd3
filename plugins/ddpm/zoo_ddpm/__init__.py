"""Denoising diffusion models of images: diffusers' `UNet2DModel` with the scheduler that its checkpoint names."""

import zoo

zoo.hooks(
    recognises=".files",
    construct=".model",
    checkpoint=".model",
    heads=".files",
    quantize=".files",
    sample_kinds=".options",
    sample_options=".options",
    sample=".sampling",
    loss=".training",
    batches=".training",
    evaluate=".training",
    describe=".files",
    save=".model",
    forward_pass=".exporting",
)
