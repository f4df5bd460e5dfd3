"""GPTQ's and AWQ's layers: integer codes in words of 32 bits, with a scale and a zero point for each group of inputs.

They are recognised by their tensors (`qweight`, `qzeros`, `scales`), whichever library made them; kernels that reorder
the codes have tensors of other shapes. Two files of the same form may differ in whether a stored zero point is one too
small (GPTQ's first version): what the layer computes decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo.weights.foreign import layers
from zoo.weights.foreign.probe import best
from zoo.weights.foreign.weight import ForeignWeight, own_tensors
from zoo.weights.quantized_tensor import QuantizedTensor

WORD = 32  # bits of a packed word
WIDTHS = (2, 4, 8)
AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # where AWQ keeps the codes 0, 1, 2, … of a word, in units of a code
NAMES = ("qweight", "qzeros", "scales", "g_idx")


@dataclass(frozen=True)
class GroupedInt:
    """Codes c with a scale s and a zero point z for each group of inputs: s · (c - z).

    Tensors of GPTQ: qweight int32 (in · bits / 32, out), qzeros int32 (groups, out · bits / 32), scales (groups, out)
    and g_idx (in,), each input's group. Of AWQ: qweight int32 (in, out · bits / 32), qzeros and scales.

    Attributes:
        scheme: "gptq" or "awq".
        bits: Of a code.
        offset: What is added to the stored zero points.
    """

    scheme: str
    bits: int
    offset: int = 0

    def unpack(self, tensors: tuple[Tensor, ...], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return the dense weight; see `Codec.unpack`."""
        qweight, qzeros, scales = tensors[:3]
        inputs, outputs = shape[1], shape[0]
        zeros = self._columns(qzeros)[:, :outputs] + self.offset  # (groups, out)
        if self.scheme == "gptq":
            codes, group = self._rows(qweight)[:inputs], tensors[3].long()  # (in, out), (in,)
        else:
            codes = self._columns(qweight)  # (in, out)
            group = torch.arange(inputs, device=codes.device) // (inputs // scales.shape[0])
        wide = torch.promote_types(dtype, torch.float32)
        weight = (codes - zeros[group]).to(wide) * scales.to(wide)[group]  # (in, out)
        return weight.t().to(dtype).contiguous()

    def _shifts(self, words: Tensor) -> Tensor:
        return torch.arange(0, WORD, self.bits, device=words.device, dtype=torch.int32)

    def _rows(self, words: Tensor) -> Tensor:
        """Return the codes of words whose codes follow each other in a column: (n, out) → (n · 32 / bits, out)."""
        codes = (words[:, None, :] >> self._shifts(words)[None, :, None]) & (2**self.bits - 1)
        return codes.view(-1, words.shape[1])

    def _columns(self, words: Tensor) -> Tensor:
        """Return the codes of words whose codes follow each other in a row: (n, m) → (n, m · 32 / bits)."""
        codes = (words[:, :, None] >> self._shifts(words)) & (2**self.bits - 1)  # (n, m, 32 / bits)
        if self.scheme == "awq":
            codes = codes[:, :, list(AWQ_ORDER)]
        return codes.view(words.shape[0], -1)


def read(layer: nn.Module, dtype: torch.dtype) -> list[ForeignWeight]:
    """Return the weight of a GPTQ or AWQ layer."""
    tensors = {name: value for name, value in own_tensors(layer).items() if name in NAMES}
    words = [tensors.get(name) for name in ("qweight", "qzeros")]
    scales = tensors.get("scales")
    if scales is None or any(one is None or one.dtype != torch.int32 or one.dim() != 2 for one in words):
        return []
    return [_weight(layer, tensors, dtype)]


def _weight(layer: nn.Module, tensors: dict[str, Tensor], dtype: torch.dtype) -> ForeignWeight:
    qweight, qzeros, scales = (tensors[name] for name in NAMES[:3])
    outputs = scales.shape[-1]
    bits = qzeros.shape[1] * WORD // max(1, outputs)
    if bits not in WIDTHS or scales.dim() != 2:
        return ForeignWeight("GPTQ or AWQ", reason="expected codes of 2, 4 or 8 bit in the usual order, got others")
    if qweight.shape[1] == outputs and "g_idx" in tensors:
        scheme, inputs, offsets = "gptq", tensors["g_idx"].numel(), _offsets(layer)
        order: tuple[str, ...] = NAMES
    else:
        scheme, inputs, offsets = "awq", qweight.shape[0], (0,)
        order = NAMES[:3]
    form = f"{scheme.upper()} {bits} bit"
    stored = {name: tensors[name].detach() for name in order}
    expected = inputs * bits // WORD if scheme == "gptq" else outputs * bits // WORD
    if qweight.shape[0 if scheme == "gptq" else 1] != expected or (scheme == "awq" and bits != 4):
        return ForeignWeight(form, reason="its kernel has reordered the codes: choose a backend that keeps them")
    readings = [
        QuantizedTensor(GroupedInt(scheme, bits, offset), torch.Size((outputs, inputs)), dtype, stored)
        for offset in offsets
    ]
    number = best(layer, [(packed, "linear") for packed in readings])
    if number is None and _library_says(layer):
        number = 0
    if number is not None and number >= 0:
        holds = tuple((name, name) for name in order)
        return ForeignWeight(form, readings[number], holds, layers.linear, "linear")
    reason = f"a {type(layer).__name__} computes another product than its tensors are known for, or does not run here"
    return ForeignWeight(form, reason=reason)


def _offsets(layer: nn.Module) -> tuple[int, ...]:
    """Return what may have to be added to GPTQ's zero points, the likelier first."""
    version: Callable[[], int] | None = getattr(layer, "qzero_format", None)
    return (0, 1) if callable(version) and version() == 2 else (1, 0)


def _library_says(layer: nn.Module) -> bool:
    """Return whether the layer's library is known to store zero points as `_offsets` expects first."""
    return callable(getattr(layer, "qzero_format", None)) or type(layer).__module__.startswith(("auto_gptq.", "awq."))
