"""Lazy weights: what `layer.weight` returns if the weight is managed."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import _is_any_autocast_enabled as autocast_enabled
from torch.compiler import is_compiling

from zoo.errors import WeightError
from zoo.weights.choice import CHOSEN, TRACED, in_force
from zoo.weights.layout import Layout
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.ops.base import transforms_active
from zoo.weights.ops.table import DIRECT, PATHS, PRODUCTS, plain_arguments, to_dense
from zoo.weights.selection import Selection, select
from zoo.weights.writes import in_place_name

WRITES = (
    "a managed weight (quantized or with an adapter) cannot be written in place by {name}: change it through the "
    "adapter, or call model.merge() and model.unload() first and write to the plain parameter"
)
RESIZES = (
    "a managed weight (quantized or with an adapter) cannot be resized: expected shape {shape}, got {new}: resize the "
    "embedding before zoo.wrap, or after model.unload(), and train new rows with zoo.LoRA(trainable_token_indices=)"
)
HOOKS = ("register_hook", "register_post_accumulate_grad_hook", "retain_grad")


class LazyWeight:
    """Replaces a managed weight's parameter in its layers, and behaves like the weight's tensor.

    It has the weight's shape, dtype and device. Products, convolutions and look-ups take a low-rank path of their own;
    every other function, method, operator or index gets the dense weight, base and active updates, differentiable in
    everything that trains. Writing to it is a `WeightError`.

    It refers to the managed weight, never to its tensors: `.to()`, deepcopy, `functional_call` and FSDP2 may replace
    those.

    Args:
        managed: The managed weight, or a part of it.
        detached: Whether the weight is detached from the graph, as `.data` is.

    Attributes:
        shape: The weight's shape.
        layout: How low-rank updates see the weight as a matrix.
    """

    shape: torch.Size
    layout: Layout

    def __init__(self, managed: ManagedWeight | Selection, detached: bool = False) -> None:
        # Not by __setattr__, which refuses to write a tensor's attributes. Shape and layout never change.
        attributes = self.__dict__
        attributes["_zoo_store"], attributes["_zoo_detached"] = managed, detached
        attributes["shape"], attributes["layout"] = managed.shape, managed.layout

    def dense(self) -> Tensor:
        """Return the weight as a plain tensor: base and active updates."""
        weight = in_force(self._zoo_store).dense()
        return weight.detach() if self._zoo_detached else weight

    def base(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the weight without any active adapter, as a plain tensor that must not be written to."""
        return self._zoo_store.base_tensor(dtype).detach()

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        direct = DIRECT.get(func)
        # The form that layers call, op(input, weight, bias, …) by position, needs no parsing of arguments.
        if direct is not None and not kwargs and len(args) > 2:
            x, weight, bias, *rest = args
            if type(weight) is cls and type(x) is not cls and not weight._zoo_detached:
                bias = bias.dense() if type(bias) is cls else bias
                managed = weight._zoo_store
                if (TRACED or not is_compiling()) and CHOSEN.get() is not None:
                    managed = in_force(managed)
                plain = managed.plain() if type(managed) is ManagedWeight else None
                if plain is not None and not autocast_enabled():
                    return func(x, plain, bias, *rest)
                result = direct(managed, x, bias, *rest) if rest else direct(managed, x, bias)
                if result is not None:
                    return result
        path = PATHS.get(func)
        if path is not None:
            plain_args = plain_arguments(args) if direct is None and func in PRODUCTS and not kwargs else None
            if plain_args is not None:
                return func(*plain_args)
            result = path(*args, **kwargs) if kwargs else path(*args)
            if result is not None:
                return result
        refuse_writes(func, args, kwargs)
        args, kwargs = to_dense((args, kwargs or {}))
        return func(*args, **kwargs)

    @property
    def dtype(self) -> torch.dtype:
        """The weight's dtype."""
        return self._zoo_store.dtype

    @property
    def device(self) -> torch.device:
        """The base's device."""
        return self._zoo_store.device

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def data(self) -> LazyWeight:
        """The same weight, detached from the graph; writing to it is an error, not lost."""
        return LazyWeight(self._zoo_store, detached=True)

    @property
    def requires_grad(self) -> bool:
        """Whether anything trains that the weight depends on."""
        return not self._zoo_detached and any(parameter.requires_grad for parameter in self._zoo_store.parameters())

    @property
    def grad(self) -> None:
        """None: gradients are those of the adapters' parameters."""
        return None

    @property
    def is_meta(self) -> bool:
        """Whether the weight is on `meta`."""
        return self._zoo_store.device.type == "meta"

    @property
    def is_cuda(self) -> bool:
        """Whether the weight is on a CUDA device."""
        return self._zoo_store.device.type == "cuda"

    @property
    def is_leaf(self) -> bool:
        """False: the dense weight is computed."""
        return False

    @property
    def T(self) -> Tensor:
        """The transposed dense weight."""
        return self.dense().T

    def dim(self) -> int:
        """Return the number of dimensions."""
        return len(self.shape)

    def size(self, dim: int | None = None) -> torch.Size | int:
        """Return the shape, or one dimension's size."""
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        """Return the number of values."""
        return self.shape.numel()

    def nelement(self) -> int:
        """Return the number of values."""
        return self.shape.numel()

    def element_size(self) -> int:
        """Return the bytes per value of the dense weight."""
        return self._zoo_store.dtype.itemsize

    def is_floating_point(self) -> bool:
        """Return whether the dtype is floating point."""
        return self._zoo_store.dtype.is_floating_point

    def is_complex(self) -> bool:
        """Return whether the dtype is complex."""
        return self._zoo_store.dtype.is_complex

    def data_ptr(self) -> int:
        """Return the address of the stored base: equal for two places only if they share the weight."""
        dense = self._zoo_store.dense_base()
        return (dense if dense is not None else self._zoo_store.quantized_base().tensors()[0]).data_ptr()

    def requires_grad_(self, requires_grad: bool = True) -> LazyWeight:
        """Do nothing for False, because a managed base is always frozen.

        Raises:
            WeightError: the weight is asked to train.
        """
        if requires_grad:
            raise WeightError(
                "a managed weight's base does not train, its adapters do: for full fine-tuning load the model "
                "without bits= and lora="
            )
        return self

    def __getattr__(self, name: str) -> Any:
        # Called only for names not defined above: the dense tensor's methods and attributes.
        if name.startswith("_") or not hasattr(Tensor, name):
            raise AttributeError(f"a managed weight has no attribute {name!r}")
        attribute = getattr(Tensor, name)
        if name.endswith("_") and callable(attribute):
            raise WeightError(WRITES.format(name=f"Tensor.{name}"))
        if name in HOOKS:
            raise WeightError(
                f"Tensor.{name} on a managed weight would never be called: its dense form is created at every use: "
                "put the hook on the adapter's parameters, model.trainable_parameters()"
            )
        return getattr(self.dense(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("_zoo_store", "_zoo_detached"):
            object.__setattr__(self, name, value)
        elif name == "requires_grad":
            self.requires_grad_(value)
        elif name == "data" and getattr(value, "shape", self.shape) != self.shape:
            raise WeightError(RESIZES.format(shape=tuple(self.shape), new=tuple(value.shape)))
        elif name != "grad" and not name.startswith("_") and hasattr(Tensor, name):
            raise WeightError(WRITES.format(name=f"setting .{name}"))
        elif name == "grad" and value is not None:
            raise WeightError(WRITES.format(name="setting .grad"))
        else:
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Any:
        return iter(self.unbind())

    def unbind(self, dim: int = 0) -> Any:
        """Return the entries along a dimension, as `torch.Tensor.unbind`; of the first without the dense weight."""
        parts = [self._part(index) for index in range(len(self))] if dim == 0 else [None]
        return tuple(parts) if parts and None not in parts else self.dense().unbind(dim)

    def select(self, dim: int, index: int) -> Any:
        """Return one entry along a dimension, as `torch.Tensor.select`."""
        return self[index] if dim == 0 else self.dense().select(dim, index)

    def narrow(self, dim: int, start: int, length: int) -> Any:
        """Return some entries along a dimension, as `torch.Tensor.narrow`."""
        within = dim == 0 and 0 <= int(start) <= int(start) + length <= len(self)
        return self[int(start) : int(start) + length] if within else self.dense().narrow(dim, start, length)

    def __getitem__(self, index: Any) -> Any:
        rest: tuple[Any, ...] = ()
        if isinstance(index, tuple) and index:
            index, rest = index[0], index[1:]
        part = self._part(index)
        if part is None:
            return self.dense()[(index, *rest) if rest else index]
        return part[rest if isinstance(index, int | Tensor) else (slice(None), *rest)] if rest else part

    def _part(self, index: Any) -> Any:
        """Return the part that `index` selects along the first dimension; None if the dense weight has to be indexed.

        Without gradients it is dense, else a lazy weight, which is dequantized again in the backward pass.
        """
        managed = in_force(self._zoo_store)
        if type(index) is int and type(managed) is ManagedWeight and not torch.is_grad_enabled():
            entry = managed.kept_entry(index)
            if entry is not None:
                return entry
        selection = select(managed, index) if isinstance(managed, ManagedWeight) and not transforms_active() else None
        if selection is None:
            return None
        return LazyWeight(selection, self._zoo_detached) if torch.is_grad_enabled() else selection.dense()

    def __setitem__(self, index: Any, value: Any) -> None:
        raise WeightError(WRITES.format(name="item assignment"))

    def __bool__(self) -> bool:
        return bool(self.dense())

    def __float__(self) -> float:
        return float(self.dense())

    def __int__(self) -> int:
        return int(self.dense())

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.dense().__array__(*args, **kwargs)

    __hash__ = object.__hash__  # by identity, as a tensor's

    def __matmul__(self, other: Any) -> Any:
        return torch.matmul(self, other)  # type: ignore[arg-type]

    def __rmatmul__(self, other: Any) -> Any:
        return torch.matmul(other, self)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"LazyWeight({tuple(self.shape)}, {self.dtype}, {self._zoo_store})"


def refuse_writes(func: Callable[..., Any], args: Any, kwargs: Any) -> None:
    """Raise `WeightError` for a function that would write to a lazy weight: the write would be lost."""
    name = in_place_name(func)
    if name is not None:
        target = args[0] if args else (kwargs or {}).get("tensor", (kwargs or {}).get("self"))
        if _has_lazy_weight(target):
            raise WeightError(WRITES.format(name=name))
    if kwargs and _has_lazy_weight(kwargs.get("out")):
        raise WeightError(WRITES.format(name=f"{getattr(func, '__name__', '')}(out=)"))


def _has_lazy_weight(value: Any) -> bool:
    """Return whether a value is a lazy weight, or a list or tuple with one (as of `torch._foreach_add_`)."""
    if isinstance(value, list | tuple):
        return any(_has_lazy_weight(one) for one in value)
    return isinstance(value, LazyWeight)


def _binary(op: Callable[..., Any], reflected: bool) -> Callable[..., Any]:
    def method(self: LazyWeight, other: Any) -> Any:
        other = other.dense() if isinstance(other, LazyWeight) else other
        return op(other, self.dense()) if reflected else op(self.dense(), other)

    return method


def _unary(op: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self: op(self.dense())


def _refuse(name: str) -> Callable[..., Any]:
    def method(self: LazyWeight, other: Any) -> Any:
        raise WeightError(WRITES.format(name=f"the operator {name}="))

    return method


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    setattr(LazyWeight, f"__{_name}__", _binary(getattr(operator, f"__{_name}__"), False))
    setattr(LazyWeight, f"__r{_name}__", _binary(getattr(operator, f"__{_name}__"), True))
    setattr(LazyWeight, f"__i{_name}__", _refuse(_name))
LazyWeight.__imatmul__ = _refuse("matmul")  # type: ignore[attr-defined]
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(LazyWeight, f"__{_name}__", _binary(getattr(operator, f"__{_name}__"), False))
for _name in ("neg", "pos", "abs", "invert"):
    setattr(LazyWeight, f"__{_name}__", _unary(getattr(operator, f"__{_name}__")))
