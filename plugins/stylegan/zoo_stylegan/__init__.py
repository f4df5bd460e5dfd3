"""StyleGAN2 (arXiv 1912.04958): generator, mapping network and discriminator, 8 to 1024 pixels."""

from __future__ import annotations

from typing import Any

import zoo

__all__ = ["StyleGAN2", "add_discriminator"]

zoo.hooks(
    recognises=".config",
    construct=".model",
    checkpoint=".model",
    heads=".config",
    inject_adapter=".model",
    sample_kinds=".options",
    sample_options=".options",
    sample=".sampling",
    loss=".training",
    batches=".training",
    evaluate=".training",
    tuning=".training",
    describe=".config",
    save=".model",
    forward_pass=".exporting",
)


def __getattr__(name: str) -> Any:
    if name == "StyleGAN2":
        from .networks import StyleGAN2

        return StyleGAN2
    if name == "add_discriminator":
        from .model import add_discriminator

        return add_discriminator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
