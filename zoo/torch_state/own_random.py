"""Random numbers from generators of a block's own, in its thread alone: torch's global generators are not touched.

Seeding the global generators and putting them back is seen by every other thread: their numbers repeat, and so do ours
change. A mode belongs to one thread. It sees each of torch's functions, and for the few that draw, a second mode
below autograd gives a generator to whatever they call. What a tensor-like object calls when a function meets it (the
dropout of an adapter in training mode) is not seen.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import FrameType, FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Functions in Python that draw; what they call is not seen by a mode of functions.
_DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout)
_COMPOSED = (
    *_DROPOUTS,
    F.fractional_max_pool2d,
    F.fractional_max_pool2d_with_indices,
    F.fractional_max_pool3d,
    F.fractional_max_pool3d_with_indices,
    F.gumbel_softmax,
    F.multi_head_attention_forward,
    F.rrelu,
    torch.lobpcg,
    torch.pca_lowrank,
    torch.svd_lowrank,
)
# Every operation of torch's that draws, under the name of its function or method.
DRAWING = (
    *("alpha_dropout", "alpha_dropout_", "bernoulli", "bernoulli_", "binomial", "cauchy_", "dropout", "dropout_"),
    *("exponential_", "feature_alpha_dropout", "feature_alpha_dropout_", "feature_dropout", "feature_dropout_"),
    *("geometric_", "gru", "log_normal_", "lstm", "multinomial", "native_dropout", "normal", "normal_", "poisson"),
    *("rand", "rand_like", "randint", "randint_like", "randn", "randn_like", "random_", "randperm", "rnn_relu"),
    *("rnn_tanh", "rrelu", "rrelu_", "rrelu_with_noise", "rrelu_with_noise_", "scaled_dot_product_attention"),
    *("uniform_", "_sample_dirichlet", "_standard_gamma"),
)
# By name, because transformers puts functions of its own in the place of these.
_INITIAL = {name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")}
_SEEDS_ITSELF = {"manual_seed", "fork_rng", "set_rng_state"}


class Generators:
    """A generator for each device, all with the same seed, as `torch.manual_seed` seeds them.

    Args:
        seed: any whole number that `torch.manual_seed` takes.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._made: dict[torch.device, torch.Generator] = {}

    def on(self, device: torch.device) -> torch.Generator:
        """Return the generator of a device."""
        if device.type in ("meta", "cpu"):
            device = torch.device("cpu")
        elif device.index is None and device.type == "cuda":
            device = torch.device("cuda", torch.cuda.current_device())
        if device not in self._made:
            self._made[device] = torch.Generator(device).manual_seed(self.seed)
        return self._made[device]


class _Source(NamedTuple):
    """What is drawn from in a block, and the frame of the function that the block is in."""

    generators: Generators
    block: FrameType


_source: ContextVar[_Source | None] = ContextVar("source", default=None)


@contextmanager
def drawing_from(generators: Generators) -> Iterator[None]:
    """Take what torch draws in the block and in this thread from these generators, unless a call names its own.

    Code that seeds torch itself, by `torch.manual_seed` say, gets the global generators that it has seeded.
    """
    outer = _source.get()
    token = _source.set(_Source(generators, _block()))
    try:
        if outer is not None:
            yield
        else:
            with _Functions():
                yield
    finally:
        _source.reset(token)


class _Functions(TorchFunctionMode):
    """Runs the functions that draw under `_Draws`."""

    def __init__(self) -> None:
        super().__init__()
        self.drawing = _drawing()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in self.drawing and not (type(func) is FunctionType and func.__name__ in _INITIAL):
            return func(*args, **kwargs) if kwargs else func(*args)
        kwargs = kwargs or {}
        into = args[0] if args else kwargs.get("tensor")  # as the functions of `nn.init` call it
        if isinstance(into, Tensor) and into.is_meta and func.__name__.endswith("_"):
            return into  # no values: torch would work their shapes out, at the cost of all else in a constructor
        source = _source.get()
        if source is None or _is_quiet(func, args, kwargs) or _is_seeded_inside(source.block):
            return func(*args, **kwargs)
        with _Draws(source.generators):
            return func(*args, **kwargs)


class _Draws(TorchDispatchMode):
    """Gives generators to the operations that draw."""

    def __init__(self, generators: Generators) -> None:
        super().__init__()
        self.generators = generators

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        with_generator = _with_generator(func)
        if with_generator is not None:
            return with_generator(*args, **kwargs, generator=self.generators.on(_device(args, kwargs)))
        if func is torch.ops.aten.native_dropout.default:
            return self._dropout(*args, **kwargs)
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:
                return func.decompose(*args, **kwargs)
        return self._seeded(func, args, kwargs)

    def _dropout(self, x: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
        if train is False:
            return x.clone(), torch.ones_like(x, dtype=torch.bool)
        mask = torch.empty_like(x, dtype=torch.bool).bernoulli_(1 - p, generator=self.generators.on(x.device))
        return x * mask * (0.0 if p == 1 else 1 / (1 - p)), mask

    def _seeded(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operation that takes no generator, such as a fused attention with dropout."""
        device = _device(args, kwargs)
        seed = int(torch.empty((), dtype=torch.int64).random_(generator=self.generators.on(torch.device("cpu"))))
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            return func(*args, **kwargs)


@cache
def _drawing() -> frozenset[Callable[..., Any]]:
    """Return torch's functions that draw, as a mode of functions sees them."""
    spaces = (torch, Tensor, F, torch._C._nn, torch._C._VariableFunctions)
    found = {getattr(space, name) for name in DRAWING for space in spaces if hasattr(space, name)}
    return frozenset((*found, *_COMPOSED))


def _is_quiet(func: Any, args: Any, kwargs: Any) -> bool:
    """Return whether a function that can draw does not now: a dropout of 0 or in evaluation mode."""
    if func in _DROPOUTS:
        return not (args[2] if len(args) > 2 else kwargs.get("training", True))
    if func is F.scaled_dot_product_attention:
        return not (args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0))
    return False


@cache
def _with_generator(func: Any) -> Any:
    """Return the overload of an operation that takes a generator; None if there is none."""

    def takes(one: Any) -> bool:
        return any(argument.name == "generator" for argument in one._schema.arguments)

    if takes(func):
        return func
    packet, name = func.overloadpacket, func._overloadname
    for other in ("generator", f"{name}_generator", name.replace("dtype", "generator_dtype"), f"generator_{name}"):
        found = getattr(packet, other, None) if other in packet.overloads() else None
        if found is not None and takes(found) and (other != "generator" or name == "default"):
            return found
    return None


def _device(args: Any, kwargs: Any) -> torch.device:
    tensor = next((one for one in args if isinstance(one, Tensor)), None)
    return tensor.device if tensor is not None else torch.device(kwargs.get("device") or "cpu")


def _block() -> FrameType:
    """Return the frame that a `with` of `drawing_from` is in, through the context managers that are made of it."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_globals.get("__name__") in ("contextlib", "zoo.torch_state.modes"):
        frame = frame.f_back
    return frame


def _is_seeded_inside(block: FrameType) -> bool:
    """Return whether a function that the block has called seeds torch's own generators."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame is not block:
        if not _SEEDS_ITSELF.isdisjoint(frame.f_code.co_names):
            return True
        frame = frame.f_back
    return False
