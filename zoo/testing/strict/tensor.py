"""Tensors of the strict accelerator: they say that they are on "sim:0", and hold their values in a tensor of the CPU.

A wrapper subclass: every operation below autograd arrives at `run`, which looks at the devices, lets the CPU's own
kernel compute, and wraps the results. What makes tensors from nothing arrives there by `register_kernels`.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from zoo.testing.strict.log import NoHostAccessError, TwoDevicesError, on_its_way, synchronised, uploaded
from zoo.testing.strict.rules import COPIES, INDEXING, may_be_on_cpu, synchronises

NAME = "sim"
CPU = torch.device("cpu")
SIM_GENERATORS: set[int] = set()  # of which torch hands kernels another Python object: their addresses
_FAR = 1 << 60  # added to addresses: whoever reads there on the host fails as with a GPU's address


class SimTensor(torch.Tensor):
    """A tensor on the strict accelerator.

    Attributes:
        host: its values.
    """

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> SimTensor:
        """Return a tensor on the device with the values, and the memory, of one on the CPU."""
        made: SimTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            host.size(),
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            layout=host.layout,
            device=torch.device(NAME, 0),
        )
        made.host = host
        return made

    # As a plain tensor's: a subclass would be asked about functions, and a GPU's tensor is not.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return run(func, args, kwargs or {})

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["host"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], meta: None, size: Any, stride: Any) -> SimTensor:
        return SimTensor(inner["host"])

    # What is not an operation of the dispatcher

    def numpy(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise as a GPU's tensor does."""
        raise NoHostAccessError(
            f"can't convert {self.device} device type tensor to numpy",
            "copy it to the host once, at the end: tensor.cpu().numpy()",
        )

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        self.numpy()

    def __dlpack__(self, **kwargs: Any) -> NoReturn:
        self.numpy()

    def tolist(self) -> Any:
        """Return the values, read back at once."""
        synchronised("tolist")
        return self.host.tolist()

    def data_ptr(self) -> int:
        """Return an address that is unique and that nobody on the host can read."""
        return self.host.data_ptr() + _FAR if self.host.numel() else 0

    def untyped_storage(self) -> torch.UntypedStorage:
        """Return the memory, of which only the identity and size mean something."""
        return self.host.untyped_storage()

    def pin_memory(self, *args: Any) -> NoReturn:
        """Raise: only the host's memory is pinned."""
        raise TwoDevicesError(f"cannot pin a tensor of {self.device}", "pin what is on the CPU, and copy it afterwards")

    @property
    def data(self) -> Tensor:
        """The tensor without its graph."""
        return torch.Tensor.data.__get__(self)  # type: ignore[attr-defined]

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, SimTensor):
            found = f"tensor.data of {self.device} set to a tensor of {value.device}"
            raise TwoDevicesError(found, "copy the values: tensor.copy_(value)")
        torch.Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.host = value.host

    def __deepcopy__(self, memo: dict[int, Any]) -> SimTensor:
        if id(self) in memo:
            return memo[id(self)]
        if not self.is_leaf:
            raise RuntimeError("Only Tensors created explicitly by the user support the deepcopy protocol")
        memo[id(self)] = made = _rebuilt(copy.deepcopy(self.host, memo), self.requires_grad, _marks(self))
        if self.grad is not None:
            made.grad = copy.deepcopy(self.grad, memo)
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        synchronised("pickle")
        return _rebuilt, (self.host.contiguous(), self.requires_grad, _marks(self))

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        synchronised("repr")
        return repr(self.host).removesuffix(")") + f", device='{self.device}')"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.dim() == 0 else repr(self)


def _marks(tensor: Tensor) -> dict[str, Any]:
    return {name: value for name, value in vars(tensor).items() if name != "host"}


def _rebuilt(host: Tensor, requires_grad: bool, marks: dict[str, Any]) -> SimTensor:
    made = SimTensor(host)
    made.__dict__.update(marks)
    made.requires_grad_(requires_grad)
    return made


def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Compute one operation of the dispatcher, some of whose arguments or results are on the device.

    Raises:
        TwoDevicesError: its arguments are on two devices.
    """
    name: str = func._schema.name
    given = kwargs.get("device")
    on_device = any(isinstance(one, SimTensor) for one in _tensors((args, tuple(kwargs.values()))))
    behind = False
    if on_device:
        if name in COPIES:
            behind = _note_copy(name, args, kwargs)
        else:
            _check_devices(func, name, args, kwargs)
            if synchronises(name, args, kwargs):
                synchronised(name)
    elif _is_sim(given):
        _check_generator(name, kwargs.get("generator"))
    wrap = on_device if given is None else _is_sim(given)
    if name == "aten::copy_":
        wrap = isinstance(args[0], SimTensor)
    wrappers: dict[int, SimTensor] = {}
    out = func(*_down(args, wrappers), **{key: _down(value, wrappers) for key, value in kwargs.items()})
    if behind:
        on_its_way(out)
    for one in wrappers.values():
        if one.host.shape != one.shape or one.host.stride() != one.stride():  # an operation in place has resized it
            torch.Tensor.data.__set__(one, SimTensor(one.host))  # type: ignore[attr-defined]
    return _up(out, wrappers) if wrap else out


def register_kernels(library: torch.library.Library) -> None:
    """Register `run` for what makes tensors on the device from nothing, and for what is computed below subclasses."""

    def kernel(func: Any) -> Callable[..., Any]:
        return lambda *args, **kwargs: run(func, args, kwargs)

    implicit = torch._C.DispatchKey.CompositeImplicitAutograd
    for full in torch._C._dispatch_get_all_op_names():
        namespace, _, name = full.partition("::")
        base, _, overload = name.partition(".")
        if namespace != "aten" or torch._C._dispatch_has_kernel_for_dispatch_key(full, implicit):
            continue
        func = getattr(getattr(torch.ops.aten, base), overload or "default")
        arguments = func._schema.arguments
        of_nothing = any(one.name == "device" for one in arguments) and str(arguments[0].type) != "Tensor"
        if of_nothing or name == "copy_":
            library.impl(name, kernel(func), "PrivateUse1")


def _is_sim(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def _tensors(value: Any) -> list[Tensor]:
    """Return the tensors among an operation's arguments, which may be in lists."""
    if isinstance(value, Tensor):
        return [value]
    return [one for item in value for one in _tensors(item)] if isinstance(value, list | tuple) else []


def _down(value: Any, wrappers: dict[int, SimTensor]) -> Any:
    """Return an argument with the host's tensors in place of the device's; `wrappers` gets these by the former's id."""
    if isinstance(value, SimTensor):
        wrappers[id(value.host)] = value
        return value.host
    if isinstance(value, list | tuple):
        return type(value)(_down(one, wrappers) for one in value)
    if isinstance(value, torch.device) and value.type == NAME:
        return CPU
    return value


def _up(value: Any, wrappers: dict[int, SimTensor]) -> Any:
    """Return a result with tensors on the device, of arguments these themselves."""
    if isinstance(value, Tensor):
        known = wrappers.get(id(value))
        return SimTensor(value) if known is None else known
    return type(value)(_up(one, wrappers) for one in value) if isinstance(value, list | tuple) else value


def _note_copy(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Write down what a copy makes the host wait for; return whether it goes to the host without waiting."""
    if name == "aten::copy_":
        to_sim, from_sim = isinstance(args[0], SimTensor), isinstance(args[1], SimTensor)
        blocking = not (args[2] if len(args) > 2 else kwargs.get("non_blocking"))
    else:
        from_sim = isinstance(args[0], SimTensor)
        to_sim = from_sim if kwargs.get("device") is None else _is_sim(kwargs["device"])
        blocking = not kwargs.get("non_blocking")
    if from_sim and not to_sim:
        if not blocking:
            return True
        synchronised(name)
    elif to_sim and not from_sim and blocking:
        uploaded(name)
    return False


def _check_devices(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise `TwoDevicesError` for what CUDA refuses."""
    positions, names = _written(func)
    for number, value in [*enumerate(args), *kwargs.items()]:
        written = number in positions or number in names
        for tensor in _tensors(value):
            if isinstance(tensor, SimTensor):
                continue
            indices = name in INDEXING and number in (1, "indices")
            if written or not may_be_on_cpu(name, tensor, indices):
                raise TwoDevicesError(
                    f"{name}: expected all tensors to be on the same device, found {NAME}:0 and {tensor.device} "
                    f"(a {str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)})",
                    "make the tensor with device= of the tensors that it meets, or move it: tensor.to(other.device)",
                )
        if isinstance(value, torch.Generator):
            _check_generator(name, value)


def _check_generator(name: str, generator: torch.Generator | None) -> None:
    if generator is not None and generator._cdata not in SIM_GENERATORS:  # type: ignore[attr-defined]
        raise TwoDevicesError(
            f"{name}: expected a {NAME!r} device type for generator but found {generator.device.type!r}",
            "draw on the generator's device and move the result: torch.randn(shape, generator=generator).to(device)",
        )


@functools.cache
def _written(func: Any) -> tuple[frozenset[int], frozenset[str]]:
    """Return the positions and names of the arguments that an operation writes to."""
    arguments = [
        (number, argument.name)
        for number, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return frozenset(number for number, _ in arguments), frozenset(name for _, name in arguments)
