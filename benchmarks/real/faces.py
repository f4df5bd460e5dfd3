"""MTCNN's three networks of facenet-pytorch, on scikit-image's faces and pictures without one."""

from __future__ import annotations

import numpy as np
import torch
from bed import Bed, Inputs, folder, frozen
from figures import Figure, difference, share
from torch import Tensor, nn
from torch.nn import functional as F

BATCH = 50
FACES = 100  # in the file: first the faces, then as many pictures without one (25 × 25, grey)


class Stages(nn.Module):
    """The proposing, the refining and the output network, each on the whole picture at its own size."""

    def __init__(self) -> None:
        super().__init__()
        from facenet_pytorch.models.mtcnn import ONet, PNet, RNet

        self.pnet, self.rnet, self.onet = PNet(pretrained=False), RNet(pretrained=False), ONet(pretrained=False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return each network's probability of a face (n), the box (n, 4) and five points (n, 10) of the last.

        Args:
            x: pictures from -1 to 1 (n, 3, 48, 48).
        """
        _, first = self.pnet(_resized(x, 12))
        _, second = self.rnet(_resized(x, 24))
        box, points, third = self.onet(x)
        return {"p": first[:, 1, 0, 0], "r": second[:, 1], "o": third[:, 1], "box": box, "points": points}


def _resized(x: Tensor, size: int) -> Tensor:
    return F.interpolate(x, (size, size), mode="area")


def build() -> nn.Module:
    """Return the networks with facenet-pytorch's weights."""
    module = Stages()
    for name in ("pnet", "rnet", "onet"):
        file = folder("facenet_pytorch") / "data" / f"{name}.pt"
        getattr(module, name).load_state_dict(torch.load(file, "cpu", weights_only=True))
    return frozen(module)


def pictures(indices: np.ndarray) -> Tensor:
    """Return pictures of the file by index, in three equal channels, enlarged (n, 3, 48, 48)."""
    grey = np.load(folder("skimage") / "data" / "lfw_subset.npy")[indices]  # from 0 to 1
    x = torch.from_numpy(grey).float()[:, None] * 2 - 1
    x = F.interpolate(x, (48, 48), mode="bicubic", align_corners=False).clamp(-1, 1)
    return x.expand(-1, 3, -1, -1).contiguous()


def _split(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices that are measured, at most 160, half of them faces, and those of the rest."""
    order = np.random.default_rng(seed).permutation(FACES)
    pairs = np.stack([order, order + FACES], axis=1)
    return pairs[:80].flatten(), pairs[80:].flatten()


def inputs(n: int, seed: int) -> Inputs:
    """Return n pictures, at most 160, half of them faces, with whether they are."""
    chosen = _split(seed)[0][:n]
    return Inputs(list(pictures(chosen).split(BATCH)), torch.from_numpy(chosen < FACES))


def calibration(n: int, seed: int) -> list[Tensor]:
    """Return n of the other pictures, at most 40."""
    return list(pictures(_split(seed)[1][:n]).split(BATCH))


def _all(found: list[dict[str, Tensor]], name: str) -> Tensor:
    return torch.cat([one[name] for one in found])


def figure(found: list[dict[str, Tensor]], truth: Tensor) -> dict[str, Figure]:
    """Return how often the refining and the output network are right about a face."""
    return {f"{name} accuracy": share((_all(found, name) > 0.5) == truth) for name in ("r", "o")}


def agreement(reference: list[dict[str, Tensor]], found: list[dict[str, Tensor]]) -> dict[str, Figure]:
    """Return mean absolute differences: of the last probability, and of the points in shares of the picture."""
    return {
        "probability MAE": difference(_all(reference, "o"), _all(found, "o")),
        "points MAE": difference(_all(reference, "points"), _all(found, "points")),
    }


BEDS = (Bed("mtcnn", "MIT", ("facenet_pytorch", "skimage"), build, inputs, calibration, figure, agreement),)
