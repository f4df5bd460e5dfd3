"""Variational autoencoders of images: diffusers' `AutoencoderKL`."""

import zoo

zoo.hooks(
    recognises=".files",
    construct=".model",
    checkpoint=".model",
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
