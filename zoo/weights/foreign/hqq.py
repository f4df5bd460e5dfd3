"""HQQ's layers: codes in `W_q`, scales and zero points in a dict beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.weights.foreign import layers
from zoo.weights.foreign.weight import ForeignWeight
from zoo.weights.quantized_tensor import QuantizedTensor

FORM = "HQQ"


@dataclass(frozen=True)
class HQQLayer:
    """The codec of an `HQQLinear`, which the library itself dequantizes.

    Tensors: codes (as packed by the library), scales and zeros of the groups.

    Attributes:
        fields: The other entries of the layer's `meta`, by name.
        bits: Of a code.
    """

    fields: tuple[tuple[str, Any], ...]
    bits: int
    scheme: str = "hqq"

    def unpack(self, tensors: tuple[Tensor, ...], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return the dense weight; see `Codec.unpack`."""
        from hqq.core.quantize import Quantizer  # type: ignore[import-untyped]

        codes, scale, zero = tensors
        meta = dict(self.fields) | {"scale": scale.detach(), "zero": zero.detach()}
        return Quantizer.dequantize(codes.detach(), meta).to(dtype).reshape(shape).clone()


def read(layer: nn.Module, dtype: torch.dtype) -> list[ForeignWeight]:
    """Return the weight of an `HQQLinear`."""
    if type(layer).__name__ != "HQQLinear" or not type(layer).__module__.startswith("hqq."):
        return []
    meta, codes = getattr(layer, "meta", None), getattr(layer, "W_q", None)
    if codes is None or not meta:
        return [ForeignWeight(FORM, reason="it has no values yet: load them first")]
    form = f"{FORM} {meta['nbits']} bit"
    if meta.get("quant_scale") or meta.get("quant_zero") or "zero_scale" in meta:
        reason = "its scales or zero points are quantized or offloaded: make it without offload_meta and such settings"
        return [ForeignWeight(form, reason=reason)]
    fields = tuple((name, value) for name, value in meta.items() if not isinstance(value, Tensor))
    tensors = {"codes": codes.detach(), "scale": meta["scale"], "zero": meta["zero"]}
    # The library makes them in inference mode, in which autograd cannot save them.
    tensors = {name: one.clone() if one.is_inference() else one for name, one in tensors.items()}
    codec = HQQLayer(fields, int(meta["nbits"]))
    packed = QuantizedTensor(codec, torch.Size(meta["shape"]), meta.get("compute_dtype", dtype), tensors)
    return [ForeignWeight(form, packed, forward=layers.linear, acts_as="linear", take=_take, give_back=_give_back)]


def _take(layer: nn.Module) -> None:
    layer._parameters.pop("W_q", None)
    layer.__dict__["W_q"] = None
    meta: Any = layer.meta
    layer.__dict__["meta"] = {name: value for name, value in meta.items() if name not in ("scale", "zero")}


def _give_back(layer: nn.Module, packed: QuantizedTensor) -> None:
    codes, scale, zero = [tensor.detach() for tensor in packed.tensors()]
    layer.__dict__.pop("W_q", None)
    layer.W_q = nn.Parameter(codes, requires_grad=False)
    meta: Any = layer.meta
    layer.__dict__["meta"] = {**meta, "scale": scale, "zero": zero}
