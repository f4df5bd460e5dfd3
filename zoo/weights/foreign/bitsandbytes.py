"""bitsandbytes' 4- and 8-bit layers, quantized already or, as they do it themselves when they are moved, now.

Their storage is that of zoo's own codecs, so that the same tensors serve both. A layer that has computed on a CPU with
AVX-512-BF16 has reordered its codes and rounded its scales to bf16; the order is undone, and the scales stay as they
are then. zoo always computes with the weight that the tensors stand for; in evaluation mode the 8-bit layers round
their inputs to 8 bit too, and so they do under zoo.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from zoo.weights.codecs import Int8Rows
from zoo.weights.foreign import layers
from zoo.weights.foreign.weight import ForeignWeight, float_dtype
from zoo.weights.four_bit import SCALE_BLOCK, FourBit
from zoo.weights.kernels import dynamic_map
from zoo.weights.lazy_weight import LazyWeight
from zoo.weights.quantized_tensor import QuantizedTensor

LIBRARY = "bitsandbytes"


def read(layer: nn.Module, dtype: torch.dtype) -> list[ForeignWeight]:
    """Return the weights of a layer that are bitsandbytes' `Params4bit` or `Int8Params`.

    Args:
        layer: Any layer.
        dtype: The weight's dtype where the storage does not say it.
    """
    if isinstance(layer, ParametrizationList):
        return _parametrized(layer)
    found = []
    for name, value in layer._parameters.items():
        kind = type(value).__name__ if type(value).__module__.startswith(LIBRARY) else ""
        if kind == "Params4bit":
            found.append(replace(_four_bit(layer, name, value), attribute=name))
        elif kind == "Int8Params":
            found.append(replace(_eight_bit(layer, name, value, dtype), attribute=name))
    return found


def _role(layer: nn.Module, name: str) -> tuple[str, Any] | None:
    """Return what a layer acts as and its forward pass; None for a layer of unknown use."""
    if name != "weight":
        return None
    if isinstance(layer, nn.Linear):
        return "linear", _linear_8bit if type(layer).__name__ == "Linear8bitLt" else _linear_4bit
    return ("embedding", layers.embedding) if isinstance(layer, nn.Embedding) else None


def _refused(form: str, reason: str) -> ForeignWeight:
    return ForeignWeight(form, reason=reason)


def _four_bit(layer: nn.Module, name: str, value: Any) -> ForeignWeight:
    form = f"{LIBRARY} {value.quant_type}"
    role = _role(layer, name)
    if role is None:
        return _refused(form, f"a {type(layer).__name__} reads it in a way of its own")
    state = value.quant_state or (getattr(layer, "quant_state", None) if value.bnb_quantized else None)
    if state is None:
        if value.is_meta or not value.is_floating_point() or value.bnb_quantized:
            return _refused(form, "it has no values yet: load them, and move the layer to its device")
        value = copy.copy(value)
        value.module = None  # or quantizing would tell the layer
        value = value.to(value.device)
        state = value.quant_state
    packed = _packed(value.data, state)
    if packed is None:
        return _refused(form, f"its scales are quantized otherwise than in blocks of {SCALE_BLOCK}")
    again = partial(_give_back_4bit, storage=value.quant_storage, compress=value.compress_statistics)
    return ForeignWeight(form, packed, forward=role[1], acts_as=role[0], take=_take, give_back=again)


def _packed(codes: Tensor, state: Any) -> QuantizedTensor | None:
    """Return codes with their state as a quantized weight of zoo's; None if zoo has no codec for its scales."""
    if getattr(state, "packing_format_for_cpu", False):
        codes, scales, dtype = _from_cpu_order(codes, state)
        tensors = {"scales": scales}
    else:
        dtype = state.dtype
        if state.nested:
            second = state.state2
            if second.blocksize != SCALE_BLOCK or not torch.equal(second.code, dynamic_map(second.code.device)):
                return None
            tensors = {"scales": state.absmax, "scales2": second.absmax.float(), "offset": state.offset.view(1).float()}
        else:
            tensors = {"scales": state.absmax.reshape(-1).float()}
    return QuantizedTensor(
        FourBit(state.quant_type, state.blocksize, state.nested),
        state.shape,
        dtype,
        {"packed": codes.contiguous().view(torch.uint8).view(-1, 1), **tensors},
    )


def _from_cpu_order(codes: Tensor, state: Any) -> tuple[Tensor, Tensor, torch.dtype]:
    """Return codes in their usual order, scales (blocks,) and dtype of a weight that the CPU kernel has used."""
    from bitsandbytes.functional import _convert_weight_packed_for_cpu_inverse

    state = copy.copy(state)
    scales, dtype = state.absmax.t().reshape(-1).float(), state.original_dtype
    state.original_nested = False  # or it would quantize the scales once more
    codes, _ = _convert_weight_packed_for_cpu_inverse(codes, state)
    return codes, scales, dtype


def _take(layer: nn.Module) -> None:
    """Remove the stored tensors from a layer, its own references to them included."""
    del layer._parameters["weight"]
    if hasattr(layer, "quant_state"):
        layer.__dict__["quant_state"] = None
    state = getattr(layer, "state", None)
    if state is not None:
        state.CB = state.SCB = None


def quant_state(packed: QuantizedTensor) -> Any:
    """Return bitsandbytes' own state of a weight in 4 bit."""
    from bitsandbytes.functional import QuantState, get_4bit_type

    codec = packed.codec
    assert isinstance(codec, FourBit)
    codes, scales, *second = [tensor.detach() for tensor in packed.tensors()]
    state2 = None
    if second:
        state2 = QuantState(second[0], code=dynamic_map(codes.device), blocksize=SCALE_BLOCK, dtype=torch.float32)
    return QuantState(
        scales,
        shape=packed.shape,
        code=get_4bit_type(codec.scheme, device=str(codes.device)),
        blocksize=codec.block_size,
        quant_type=codec.scheme,
        dtype=packed.dtype,
        offset=second[1].view(()) if second else None,
        state2=state2,
    )


def _give_back_4bit(layer: nn.Module, packed: QuantizedTensor, *, storage: torch.dtype, compress: bool) -> None:
    """Make `weight` bitsandbytes' own parameter again, of the same bits."""
    from bitsandbytes.nn import Params4bit

    codes, state = packed.tensors()[0].detach(), quant_state(packed)
    layer.weight = Params4bit(
        codes.reshape(-1).view(storage).view(-1, 1),
        requires_grad=False,
        quant_state=state,
        blocksize=state.blocksize,
        compress_statistics=compress,
        quant_type=state.quant_type,
        quant_storage=storage,
        module=layer,
        bnb_quantized=True,
    )
    if hasattr(layer, "quant_state"):
        layer.quant_state = state


def _parametrized(layer: ParametrizationList) -> list[ForeignWeight]:
    """Return the weight of a parameter, of experts say, that `bitsandbytes.nn.parametrize` has quantized."""
    first: Any = layer[0] if len(layer) else None
    if type(first).__name__ != "Bnb4bitParametrization" or "original" not in layer._parameters:
        return []
    state = first.quant_state
    form = f"{LIBRARY} {state.quant_type} by a parametrization"
    packed = _packed(layer._parameters["original"].data, state) if len(layer) == 1 else None  # type: ignore[union-attr]
    if packed is None:
        return [ForeignWeight(form, attribute="original", reason="it has scales or parametrizations of another form")]
    return [
        ForeignWeight(
            form,
            packed,
            (("original", "packed"),),
            _parametrized_forward,
            attribute="original",
            give_back=_give_back_parametrized,
        )
    ]


def _parametrized_forward(layer: nn.Module) -> Tensor:
    """Return the dense weight, with active adapters."""
    weight = layer.original
    return weight.dense() if isinstance(weight, LazyWeight) else weight  # type: ignore[return-value]


def _give_back_parametrized(layer: nn.Module, packed: QuantizedTensor) -> None:
    """Make `original` the codes again, and the state of the parametrization that of their tensors."""
    layer.original = nn.Parameter(packed.tensors()[0].detach(), requires_grad=False)
    layer[0].quant_state = quant_state(packed)  # type: ignore[index]


def _linear_4bit(layer: nn.Module, x: Tensor) -> Tensor:
    """Return x @ W.T + bias in the layer's compute dtype, returned in that of x."""
    dtype = getattr(layer, "compute_dtype", None) or x.dtype
    y = layers.linear(layer, x.to(dtype))
    return y.to(x.dtype)


def _eight_bit(layer: nn.Module, name: str, value: Any, dtype: torch.dtype) -> ForeignWeight:
    form = f"{LIBRARY} int8"
    role = _role(layer, name)
    if role is None:
        return _refused(form, f"a {type(layer).__name__} reads it in a way of its own")
    if value.has_fp16_weights:
        return _refused(
            form, "has_fp16_weights=True quantizes it anew at every use: make the layer with has_fp16_weights=False"
        )
    dtype = float_dtype(layer, value.dtype if value.dtype.is_floating_point else dtype)
    if value.dtype != torch.int8:
        if value.is_meta:
            return _refused(form, "it has no values yet: load them, and move the layer to its device")
        value = copy.deepcopy(value).to(value.device)
    state = getattr(layer, "state", None)
    scales = value.SCB if value.SCB is not None else getattr(state, "SCB", None)
    if scales is None or value.dtype != torch.int8:
        return _refused(form, "it has no scales (SCB): load them, or move the layer to its device")
    tensors = {"values": value.data, "scales": scales.reshape(-1).float()}
    packed = QuantizedTensor(Int8Rows(), value.shape, dtype, tensors)
    return ForeignWeight(form, packed, forward=role[1], acts_as=role[0], take=_take, give_back=_give_back_8bit)


def _give_back_8bit(layer: nn.Module, packed: QuantizedTensor) -> None:
    """Make `weight` bitsandbytes' own parameter again, of the same bits."""
    from bitsandbytes.nn import Int8Params

    values, scales = [tensor.detach() for tensor in packed.tensors()]
    layer.weight = Int8Params(values, requires_grad=False, has_fp16_weights=False, CB=values, SCB=scales)


def _linear_8bit(layer: nn.Module, x: Tensor) -> Tensor:
    """Return x @ W.T + bias; in evaluation mode by bitsandbytes' own product, which rounds x to 8 bit as well."""
    managed = layers.managed_of(layer)
    if layer.training or managed is None or not layers.has_native_base(managed) or not x.numel():
        return layers.linear(layer, x)
    import bitsandbytes as bnb

    values, scales = managed.quantized_base().tensors()
    state = bnb.MatmulLtState(CB=values.detach(), SCB=scales.detach())
    state.has_fp16_weights, state.is_training = False, False
    state.threshold = layer.state.threshold  # type: ignore[union-attr]
    y = bnb.matmul(x.reshape(-1, x.shape[-1]), state.CB, bias=layers.bias_of(layer, x.dtype), state=state)
    y = y.view(*x.shape[:-1], y.shape[-1])  # (..., out)
    return layers.add_adapters(managed, y, x)
