"""Feature spaces in which pictures are compared, each with a name, as a distance says nothing without it.

Shapes: n pictures of c channels, h × w, in [0, 1]; d features.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import DataError
from zoo.metrics.judge import Judge, read
from zoo.torch_state.modes import evaluating

if TYPE_CHECKING:
    from collections.abc import Callable

SIDE = 8  # pixels of an edge, of the space "pixels"
PIXELS = "pixels"
INCEPTION = "inception"
_INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"  # torch-fidelity's
_CHUNK = 128


@dataclass(frozen=True)
class Space:
    """A named feature space.

    Attributes:
        name: what figures say of it.
        read: pictures [n, c, h, w] in [0, 1] → (features [n, d], class probabilities [n, classes] or None).
    """

    name: str
    read: Callable[[Tensor], tuple[Tensor, Tensor | None]]


def space_of(judge: Any = None) -> Space:
    """Return the feature space of a judge.

    Args:
        judge: None or "pixels": the pictures averaged to 8 × 8 pixels; "inception": the network of the Fréchet
            inception distance, where torch-fidelity and its weights are on this machine; an image classifier with
            timm's methods, as `zoo.load("vit")`; or any `nn.Module` that makes features [n, …] of pictures in [0, 1].

    Raises:
        DataError: it is none of these, or the weights are not here.
    """
    if judge is None or judge == PIXELS:
        return Space(f"pixels averaged to {SIDE} × {SIDE}", lambda pictures: (_small(pictures), None))
    if isinstance(judge, str):
        if judge == INCEPTION:
            return _inception()
        raise DataError(
            f"expected a judge of pictures as {PIXELS!r}, {INCEPTION!r}, a loaded image classifier, such as "
            f"zoo.load({judge!r}), or a module, got {judge!r}"
        )
    if isinstance(judge, nn.Module):
        return Space(f"features of {type(judge).__name__}", lambda pictures: (_of_module(judge, pictures), None))
    if isinstance(getattr(judge, "module", None), nn.Module) and callable(getattr(judge, "batches", None)):
        entry = getattr(judge, "entry", None)
        called = getattr(entry, "name", None) or type(judge.module).__name__
        return Space(f"features of {called}", lambda pictures: _judged(judge, pictures))
    raise DataError(f"expected a judge as a loaded image classifier or a module, got {type(judge).__name__}")


def _small(pictures: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(pictures.float().cpu(), SIDE).flatten(1)


def _judged(judge: Judge, pictures: Tensor) -> tuple[Tensor, Tensor | None]:
    return read(judge, pictures)


@torch.no_grad()
def _of_module(module: nn.Module, pictures: Tensor) -> Tensor:
    place = next(module.parameters(), torch.zeros(()))
    with evaluating(module):
        found = [module(part.to(place.device, place.dtype)).flatten(1) for part in pictures.split(_CHUNK)]
    return torch.cat(found).float().cpu()


def _inception() -> Space:
    from torchmetrics.utilities.imports import _TORCH_FIDELITY_AVAILABLE

    weights = Path(torch.hub.get_dir()) / "checkpoints" / _INCEPTION_FILE
    if not _TORCH_FIDELITY_AVAILABLE or not weights.is_file():
        raise DataError(
            f"judge 'inception' needs torch-fidelity and its weights, {_INCEPTION_FILE} in torch's hub folder, and "
            "they are not on this machine: install torch-fidelity and put them there, or use judge='pixels' or a "
            "loaded image classifier"
        )
    from torchmetrics.image.fid import NoTrainInceptionV3

    network = NoTrainInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], str(weights))

    @torch.no_grad()
    def pictured(pictures: Tensor) -> tuple[Tensor, Tensor | None]:
        shown = (pictures.expand(-1, 3, -1, -1) * 255).byte()
        parts = [network._torch_fidelity_forward(part) for part in shown.split(_CHUNK)]
        features, logits = (torch.cat([part[i] for part in parts]).float() for i in (0, 1))
        return features, logits.softmax(-1)

    return Space("features of Inception v3 (torch-fidelity's)", pictured)
