"""Weights that are tensor subclasses with data of their own, as those of torchao and optimum-quanto.

They are recognised by torch's protocol for such classes: `__tensor_flatten__` takes one apart into plain tensors,
`__tensor_unflatten__` puts it together again, and `dequantize` says which numbers it stands for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.weights.foreign import layers
from zoo.weights.foreign.weight import ForeignWeight, float_dtype
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.quantized_tensor import QuantizedTensor


@dataclass(frozen=True)
class Parts:
    """How a subclass is put together from plain tensors.

    Attributes:
        kind: The class.
        names: Of its inner tensors.
        context: What else it is made of, as `__tensor_flatten__` returns it.
        shape: Its shape.
        stride: Its strides.
        inner: For each inner tensor its own parts, or None for a plain one.
    """

    kind: type
    names: tuple[str, ...]
    context: Any
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    inner: tuple[Parts | None, ...]


@dataclass(frozen=True)
class Subclass:
    """The codec of a tensor subclass. Its tensors are the plain ones that the subclass is made of.

    Attributes:
        scheme: The subclass's name.
        bits: Stored bits per value, scales not counted.
        parts: How to put it together.
    """

    scheme: str
    bits: int
    parts: Parts = field(compare=False, repr=False)  # a library's own objects, which may not be comparable

    def tensor(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """Return the library's own tensor."""
        return _join(self.parts, iter([tensor.detach() for tensor in tensors]))

    def unpack(self, tensors: tuple[Tensor, ...], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return the dense weight; see `Codec.unpack`."""
        dense = self.tensor(tensors).dequantize()
        return dense.to(dtype).reshape(shape).clone(memory_format=torch.contiguous_format)


def read(layer: nn.Module, dtype: torch.dtype) -> list[ForeignWeight]:
    """Return the weights of a layer that are tensor subclasses with a `dequantize` of their own."""
    found = []
    for name, value in layer._parameters.items():
        if value is None or not hasattr(type(value), "__tensor_flatten__"):
            continue
        if type(value).dequantize is not Tensor.dequantize:
            found.append(_weight(layer, name, value, dtype))
    return found or _not_frozen(layer)


def _weight(layer: nn.Module, name: str, value: Tensor, dtype: torch.dtype) -> ForeignWeight:
    library = type(value).__module__.split(".")[0]
    form = f"{library} {type(value).__name__}"
    if getattr(layer, "activation_qtype", None) is not None:
        return ForeignWeight(form, attribute=name, reason="its activations are quantized too: quantize weights alone")
    tensors: dict[str, Tensor] = {}
    try:
        parts = _split(value.detach(), tensors, "")
        dense = value.dequantize()
    except Exception as error:
        return ForeignWeight(form, attribute=name, reason=f"its library cannot dequantize it ({type(error).__name__})")
    first = next(iter(tensors.values()))
    bits = max(1, 8 * first.numel() * first.element_size() // max(1, dense.numel()))
    known = dense.dtype if dense.dtype.itemsize > 1 else float_dtype(layer, dtype)
    packed = QuantizedTensor(Subclass(type(value).__name__, bits, parts), dense.shape, known, tensors)
    forward, role = _forward_of(layer) if name == "weight" else (None, "")
    return ForeignWeight(
        form,
        packed,
        forward=forward,
        acts_as=role,
        attribute=name,
        take=_Take(name),
        give_back=_GiveBack(name),
    )


def _forward_of(layer: nn.Module) -> tuple[Any, str]:
    """Return the forward pass of a layer and what it acts as; (None, "") if it takes the weight as any tensor."""
    if isinstance(layer, nn.Linear):
        return linear, "linear"
    if isinstance(layer, nn.Embedding):
        return layers.embedding, "embedding"
    return (layers.conv, "conv") if isinstance(layer, nn.modules.conv._ConvNd) else (None, "")


def _not_frozen(layer: nn.Module) -> list[ForeignWeight]:
    """Return a refusal for a layer of optimum-quanto that quantizes its weight anew at every use."""
    if not type(layer).__module__.startswith("optimum.quanto.") or getattr(layer, "weight_qtype", None) is None:
        return []
    return [ForeignWeight("optimum-quanto", reason="it quantizes its weight at every use: call optimum.quanto.freeze")]


@dataclass(frozen=True)
class _Take:
    """Removes the parameter from its layer."""

    name: str

    def __call__(self, layer: nn.Module) -> None:
        del layer._parameters[self.name]


@dataclass(frozen=True)
class _GiveBack:
    """Makes the parameter the library's own tensor again."""

    name: str

    def __call__(self, layer: nn.Module, packed: QuantizedTensor) -> None:
        codec = packed.codec
        assert isinstance(codec, Subclass)
        layer._parameters[self.name] = nn.Parameter(codec.tensor(packed.tensors()), requires_grad=False)


def _split(value: Tensor, tensors: dict[str, Tensor], path: str) -> Parts:
    """Return the parts of a subclass, and add its plain tensors to `tensors`."""
    names, context = value.__tensor_flatten__()  # type: ignore[attr-defined]
    inner: list[Parts | None] = []
    for name in names:
        part, place = getattr(value, name), f"{path}{name.strip('_')}"
        if hasattr(type(part), "__tensor_flatten__"):
            inner.append(_split(part, tensors, f"{place}_"))
        else:
            inner.append(None)
            tensors[place] = part
    return Parts(type(value), tuple(names), context, tuple(value.shape), value.stride(), tuple(inner))


def _join(parts: Parts, tensors: Any) -> Tensor:
    """Return the subclass made of the next plain tensors."""
    made = {
        name: next(tensors) if inner is None else _join(inner, tensors)
        for name, inner in zip(parts.names, parts.inner, strict=True)
    }
    return parts.kind.__tensor_unflatten__(made, parts.context, torch.Size(parts.shape), parts.stride)  # type: ignore[attr-defined]


class _Product(torch.autograd.Function):
    """The library's own product; the gradient of x goes through the dense weight."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor | None, codec: Subclass, shape: torch.Size, *tensors: Tensor
    ) -> Tensor:
        ctx.save_for_backward(*tensors)
        ctx.codec, ctx.shape, ctx.bias_dtype = codec, shape, None if bias is None else bias.dtype
        return F.linear(x, codec.tensor(tensors), bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        tensors = ctx.saved_tensors
        grad_x = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = g @ ctx.codec.unpack(tensors, ctx.shape, g.dtype)  # (..., in)
        if ctx.needs_input_grad[1]:
            grad_bias = g.reshape(-1, g.shape[-1]).sum(0).to(ctx.bias_dtype)  # (out,)
        return grad_x, grad_bias, None, None, *[None] * len(tensors)


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """Return x @ W.T + bias, the base's part by the library's own product."""
    managed = layers.managed_of(layer)
    if managed is None or not layers.has_native_base(managed):
        return layers.linear(layer, x)
    y = _base(managed, x, layers.bias_of(layer, x.dtype))
    return layers.add_adapters(managed, y, x)


def _base(managed: ManagedWeight, x: Tensor, bias: Tensor | None) -> Tensor:
    packed = managed.quantized_base()
    codec, tensors = packed.codec, packed.tensors()
    assert isinstance(codec, Subclass)
    if torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad)):
        return _Product.apply(x, bias, codec, packed.shape, *tensors)
    return F.linear(x, codec.tensor(tensors), bias)
