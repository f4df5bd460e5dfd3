"""Pruning as an adapter: a mask that is applied last, so that whatever trains before it keeps the zeros."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from zoo.errors import AdapterError, shown
from zoo.methods.config import Adapter, Targets, check_share
from zoo.weights.layout import Layout
from zoo.weights.lazy_weight import LazyWeight
from zoo.weights.update import Update

PATTERNS = ("magnitude", "channels")
_OF = re.compile(r"(\d{1,3}):(\d{1,3})")


@dataclass(frozen=True)
class Prune(Adapter):
    """Zeros in chosen weights, by the size of their values when the adapter is made (magnitude pruning).

    It has nothing to train. It is applied after all other active adapters, so that a LoRA that is tuned beside it keeps
    the zeros, and so does what they are merged into.

    Attributes:
        share: The share of values, or of channels, that become zero.
        pattern: `"magnitude"`: the smallest values of each weight (arXiv 1506.02626); `"channels"`: the outputs with
            the smallest norms, whole (arXiv 1608.08710); `"2:4"` and the like: of every four inputs of an output that
            are neighbours the two largest stay (arXiv 2104.08378), and `share` does not count.
        targets: As in `zoo.LoRA`; default every weight of two or more dimensions.

    Raises:
        AdapterError: a value is out of range.
    """

    share: float = 0.5
    pattern: str = "magnitude"
    targets: Targets = "all"

    kind: ClassVar[str] = "prune"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("share", self.share)
        numbers = self.numbers
        if self.pattern not in PATTERNS and (numbers is None or not 0 < numbers[0] < numbers[1]):
            raise AdapterError(
                f"pattern: expected one of {', '.join(map(repr, PATTERNS))}, or '2:4' and the like, got "
                f"{shown(self.pattern)}"
            )

    @property
    def numbers(self) -> tuple[int, int] | None:
        """(2, 4) for the pattern "2:4"; None for the others."""
        found = _OF.fullmatch(self.pattern) if isinstance(self.pattern, str) else None
        return None if found is None else (int(found[1]), int(found[2]))


class PruneUpdate(Update):
    """A mask of a weight.

    Attributes:
        mask: bfloat16, 1 where the weight stays and 0 elsewhere; it broadcasts against the weight.
    """

    kind = "prune"
    frozen = ("mask",)
    last = 1

    def __init__(self, name: str, weight: LazyWeight, config: Prune) -> None:
        super().__init__()
        if weight.is_meta:
            shape = _outputs(weight.shape, weight.layout) if config.pattern == "channels" else weight.shape
            mask = torch.empty(shape, dtype=torch.bfloat16, device="meta")
        else:
            with torch.no_grad():
                mask = kept(weight.dense().float().abs(), weight.layout, config).bfloat16()
        self.mask = nn.Parameter(mask, requires_grad=False)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with zeros where the mask has them; so has the gradient."""
        return torch.where(self._parameters["mask"] != 0, weight, weight.new_zeros(()))  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        """Return the mask's shape for the module's repr."""
        return f"{tuple(self.mask.shape)}"


def kept(sizes: Tensor, layout: Layout, config: Prune) -> Tensor:
    """Return where a weight stays: bool, of a shape that broadcasts against the weight's.

    Args:
        sizes: The weight's absolute values.
        layout: Which of its dimensions are the layer's outputs.
        config: How much of it becomes zero.
    """
    if config.pattern == "channels":
        others = tuple(dim for dim in range(sizes.dim()) if dim not in layout.output_dims)
        return _largest(sizes.square().sum(others, keepdim=True), config.share)
    numbers = config.numbers
    return _largest(sizes, config.share) if numbers is None else _in_each(sizes, layout, *numbers)


def _outputs(shape: torch.Size, layout: Layout) -> torch.Size:
    return torch.Size(size if dim in layout.output_dims else 1 for dim, size in enumerate(shape))


def _largest(sizes: Tensor, share: float) -> Tensor:
    """Return where the values are that stay when a share of them, the smallest, goes."""
    stays = torch.ones(sizes.numel(), dtype=torch.bool, device=sizes.device)
    stays[sizes.flatten().argsort()[: round(share * sizes.numel())]] = False
    return stays.view(sizes.shape)


def _in_each(sizes: Tensor, layout: Layout, count: int, of: int) -> Tensor:
    """Return where the `count` largest of every `of` neighbouring inputs of an output are; a rest of fewer stays."""
    inputs = [dim for dim in range(sizes.dim()) if dim not in layout.output_dims]
    order = [*layout.output_dims, *inputs]
    moved = sizes.permute(order)  # (outputs …, inputs …)
    rows = moved.reshape(-1, max(1, sizes.numel() // max(1, _count(sizes, layout.output_dims))))  # (outputs, inputs)
    stays = torch.ones(rows.shape, dtype=torch.bool, device=sizes.device)
    whole = rows.shape[1] // of * of
    groups = rows[:, :whole].reshape(rows.shape[0], -1, of)  # (outputs, groups, of)
    chosen = torch.zeros(groups.shape, dtype=torch.bool, device=sizes.device)
    chosen.scatter_(2, groups.topk(count, dim=2).indices, True)
    stays[:, :whole] = chosen.view(rows.shape[0], whole)
    back = [order.index(dim) for dim in range(len(order))]
    return stays.view(moved.shape).permute(back).contiguous()


def _count(sizes: Tensor, dims: tuple[int, ...]) -> int:
    count = 1
    for dim in dims:
        count *= sizes.shape[dim]
    return count
