"""How alike pictures are to those they should be, from torchmetrics. Shapes: n pictures [n, c, h, w] in [0, 1]."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from zoo.errors import DataError
from zoo.metrics.scores import Scores

LIKENESS = ("psnr", "ssim", "lpips")
HIGHEST = 100.0  # decibels: the same picture has infinitely many
_SMALLEST = 11  # pixels of SSIM's window
_ALEXNET = "alexnet-owt-7be5be79.pth"  # torchvision's


def add_likeness(scores: Scores, made: Tensor, wanted: Tensor, names: Collection[str]) -> None:
    """Add those of "psnr" (decibels), "ssim" and "lpips" that are named: means over the pictures.

    Args:
        scores: where to add them.
        made: pictures.
        wanted: what they should be.
        names: which metrics.

    Raises:
        DataError: the pictures are too small for SSIM's window, or the network of LPIPS is not on this machine.
    """
    made, wanted = made.float().cpu().clamp(0, 1), wanted.float().cpu().clamp(0, 1)
    if "psnr" in names:
        from torchmetrics.functional.image import peak_signal_noise_ratio

        found = peak_signal_noise_ratio(made, wanted, data_range=1.0, dim=(1, 2, 3), reduction="none")
        scores.mean("psnr", found.clamp(max=HIGHEST))
    if "ssim" in names:
        from torchmetrics.functional.image import structural_similarity_index_measure

        if min(made.shape[-2:]) < _SMALLEST:
            raise DataError(
                f"ssim compares windows of {_SMALLEST} pixels, and the pictures are {list(made.shape[-2:])}"
            )
        found = structural_similarity_index_measure(made, wanted, data_range=1.0, reduction="none")  # type: ignore[assignment]
        scores.mean("ssim", found)
    if "lpips" in names:
        _add_lpips(scores, made, wanted)


def _add_lpips(scores: Scores, made: Tensor, wanted: Tensor) -> None:
    if not (Path(torch.hub.get_dir()) / "checkpoints" / _ALEXNET).is_file():
        raise DataError(
            f"lpips needs the weights of torchvision's AlexNet, {_ALEXNET} in torch's hub folder, and they are not on "
            "this machine: put them there, or leave it out"
        )
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    made, wanted = (pictures.expand(-1, 3, -1, -1) for pictures in (made, wanted))
    network = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
    scores.update("lpips", lambda: network, made, wanted)
    scores.note("lpips", "by AlexNet")
