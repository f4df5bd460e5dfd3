"""Graphics cards by name, and how much of their memory a run can use."""

from __future__ import annotations

from dataclasses import dataclass

from zoo.bounded.sizes import size_of
from zoo.errors import ZooError, did_you_mean

_MIB = 1 << 20
# MiB, as nvidia-smi and rocm-smi report them.
_CARDS = {
    "b200": 183_359,
    "h200": 143_771,
    "h100": 81_559,
    "a100": 81_920,
    "a100-80gb": 81_920,
    "a100-40gb": 40_960,
    "l40s": 46_068,
    "a6000": 49_140,
    "a40": 46_068,
    "l4": 23_034,
    "a10": 23_028,
    "t4": 15_360,
    "v100": 16_384,
    "v100-32gb": 32_768,
    "rtx5090": 32_607,
    "rtx4090": 24_564,
    "rtx4080": 16_376,
    "rtx3090": 24_576,
    "rtx3060": 12_288,
    "mi300x": 196_592,
}
_WITHOUT_BF16 = ("t4", "v100", "v100-32gb")
CONTEXT = 600 * _MIB  # what CUDA and the libraries take of a card before the first tensor
SPARE = 0.04  # of the rest: blocks that the allocator cannot fill, and workspaces of kernels


@dataclass(frozen=True)
class Card:
    """A card's memory.

    Attributes:
        name: as it was asked for.
        bytes: all of it.
        bf16: whether it computes in bfloat16.
    """

    name: str
    bytes: int
    bf16: bool = True

    @property
    def usable(self) -> int:
        """The bytes for tensors: without CUDA's context and a spare share."""
        return max(0, int((self.bytes - CONTEXT) * (1 - SPARE)))


def as_card(text: str) -> Card:
    """Return the card of a name such as "h200", or of a size such as "80GB" or "24GiB".

    Raises:
        ZooError: it is neither.
    """
    wanted = str(text).strip().lower().replace(" ", "").replace("_", "-")
    if wanted in _CARDS:
        return Card(wanted, _CARDS[wanted] * _MIB, wanted not in _WITHOUT_BF16)
    size = size_of(wanted, "gb")
    if size is None:
        known = ", ".join(_CARDS)
        raise ZooError(
            f"gpu {text!r:.60}: expected a size such as '80GB', or one of {known}.{did_you_mean(wanted, _CARDS)}"
        )
    return Card(str(text), size)
