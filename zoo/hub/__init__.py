"""The Hugging Face Hub: models and adapters from it, adapters to it, through its own client."""

from __future__ import annotations

from zoo.hub.download import snapshot
from zoo.hub.reference import is_repository

__all__ = ["is_repository", "snapshot"]
