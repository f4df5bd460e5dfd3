"""Variational autoencoders of images: diffusers' `AutoencoderKL`."""

import zoo

zoo.hooks(
    recognises=".files",
    construct=".model",
    checkpoint=".model",
    quantize=".files",
    sample=".sampling",
    loss=".training",
    batches=".training",
    evaluate=".training",
    describe=".files",
    save=".model",
)
