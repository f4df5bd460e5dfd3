"""A part of a managed weight along its first dimension: one matrix of a stack, or rows of a fused projection.

Only the part is dequantized, and products with it take the same low-rank paths as those with the whole weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo.weights.layout import Layout
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.offload import call
from zoo.weights.parts import PartOf
from zoo.weights.quantized_tensor import Codec
from zoo.weights.update import Factors, LowRankUpdate, Scaling, Update, without_autocast


class SelectedTensor(NamedTuple):
    """A part of a quantized base, with what operations use of `QuantizedTensor`.

    Attributes:
        codec: Dequantizes the tensors.
        stored: The tensors, as the codec expects them.
        shape: The part's shape.
        dtype: The dtype that the layer sees.
    """

    codec: Codec
    stored: tuple[Tensor, ...]
    shape: torch.Size
    dtype: torch.dtype

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the stored tensors."""
        return self.stored

    def __call__(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the dense part, a fresh tensor."""
        return self.codec.unpack(self.stored, self.shape, dtype or self.dtype)


class Selection:
    """Entries `start` to `stop` of a managed weight's first dimension, with what operations use of `ManagedWeight`.

    It refers to the managed weight and never to its tensors, as a lazy weight does.

    Attributes:
        shape: The part's shape.
        layout: How low-rank updates see the part.
    """

    def __init__(self, whole: ManagedWeight, start: int, stop: int, single: bool) -> None:
        """Select a part.

        Args:
            whole: The managed weight.
            start: The first entry.
            stop: The entry after the last one.
            single: Whether there is one entry and the part has no dimension for it.
        """
        self._whole, self._start, self._stop, self._single = whole, start, stop, single
        rest = whole.shape[1:]
        self.shape = rest if single else torch.Size((stop - start, *rest))
        layout = whole.layout
        self.layout = Layout(transposed=layout.transposed) if single and layout.stacked else layout

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the layer sees."""
        return self._whole.dtype

    @property
    def device(self) -> torch.device:
        """The base's device."""
        return self._whole.device

    @property
    def training(self) -> bool:
        """Whether the managed weight is in training mode."""
        return self._whole.training

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of the whole managed weight."""
        return self._whole.parameters()

    def of(self, tensor: Tensor) -> Tensor:
        """Return the part of a tensor whose first dimension is the weight's."""
        return tensor[self._start] if self._single else tensor[self._start : self._stop]

    def dense_base(self) -> Tensor | None:
        """Return the part of the dense base; None if it is quantized."""
        dense = self._whole.dense_base()
        return None if dense is None else self.of(dense)

    def effective_base(self) -> Tensor | None:
        """Return the part of what active updates apply to; see `ManagedWeight.effective_base`."""
        dense = self._whole.effective_base()
        return None if dense is None else self.of(dense)

    def quantized_base(self) -> SelectedTensor:
        """Return the part of the quantized base."""
        packed = self._whole.quantized_base()
        codec = PartOf(packed.codec, packed.shape, self._start, self._stop)
        return SelectedTensor(codec, packed.tensors(), self.shape, packed.dtype)

    def is_dense(self) -> bool:
        """Return whether `dense()` has nothing to compute."""
        return self._whole.is_dense()

    def active_updates(self) -> tuple[Update, ...]:
        """Return the active updates of the whole weight."""
        return self._whole.active_updates()

    def factors(self) -> list[Factors]:
        """Return the active updates' factors for this part."""
        whole, found = self._whole, []
        for update, share in zip(whole._updates_in_use, whole._shares, strict=True):
            left, right = call(update, update.matrices)  # type: ignore[arg-type]
            if self.layout is not whole.layout:
                right = right[self._start]
            found.append(Factors(self.of(left), right, share * update.scale))  # type: ignore[operator, arg-type]
        return found

    def only_update(self) -> Update | None:
        """Return None: the factors of a part are `factors()`."""
        return None

    def scaling(self) -> Scaling | None:
        """Return None: parts are taken of low-rank updates alone."""
        return None

    def base_tensor(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the part of the base without any active update."""
        dense = self.dense_base()
        if dense is None:
            return self.quantized_base()(dtype)
        return dense if dtype is None else dense.to(dtype)

    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the part as its layer sees it: base and active updates, differentiable in everything that trains."""
        dense = self.effective_base()
        weight = self.quantized_base()(dtype) if dense is None else dense.to(dtype or self.dtype)
        for left, right, scale in self.factors() if self._whole._updates_in_use else ():
            with without_autocast(left):
                product = scale * (left @ right)  # (rows, columns)
            weight = weight + product.view(self.shape).to(weight.dtype)
        return weight


def select(whole: ManagedWeight, index: Any) -> Selection | None:
    """Return the part of a weight that `index` selects, or None where the dense weight has to be indexed.

    None for other indices than a number or a slice without steps, for parts of one dimension, for updates that are not
    low-rank or that drop inputs now, for codecs without `part`, and where there is nothing to compute.
    """
    shape = whole.shape
    if torch.compiler.is_compiling() or whole.is_dense():
        return None
    single = not isinstance(index, slice)
    bounds = _bounds(index, shape[0]) if len(shape) - single >= 2 else None
    if bounds is None:
        return None
    for update in whole._updates_in_use:
        if not _divides(update, whole.layout, single):
            return None
    if whole.effective_base() is None and not hasattr(whole.quantized_base().codec, "part"):
        return None
    return Selection(whole, *bounds, single)


def _bounds(index: Any, size: int) -> tuple[int, int] | None:
    if isinstance(index, slice):
        start, stop, step = index.indices(size)
        return (start, stop) if step == 1 and start < stop else None
    if isinstance(index, Tensor):
        if index.dim() or index.dtype in (torch.bool, torch.uint8) or index.is_floating_point():
            return None
        index = int(index)
    if not isinstance(index, int) or isinstance(index, bool) or not -size <= index < size:
        return None
    return index % size, index % size + 1


def _divides(update: Update, layout: Layout, single: bool) -> bool:
    """Return whether a part of the update is that of one matrix, or of rows, of its factors."""
    if not isinstance(update, LowRankUpdate) or update.takes_base or (update.dropout and update.training):
        return False
    if update.stacked != layout.stacked or layout.split != 1:
        return False
    return single if layout.stacked else not single
