"""Which torch function on a managed weight has a path of its own; every other one gets the dense weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.checkpoint import checkpoint

from zoo.weights.choice import in_force, keeping, kept
from zoo.weights.managed_weight import ManagedWeight
from zoo.weights.ops import conv, embedding, linear
from zoo.weights.ops.base import transforms_active

# A path gets the call's positional and keyword arguments, lazy weights included, and returns None if the general path
# has to be taken.
Path = Callable[..., Tensor | None]


def _managed(value: Any, needs_dense: bool = True) -> Any:
    """Return a lazy weight's managed weight; None for anything else, and for one detached from the graph (`.data`)."""
    managed = getattr(value, "_zoo_store", None)
    return None if managed is None or value._zoo_detached else in_force(managed, needs_dense)


def _is_lazy(value: Any) -> bool:
    """Return whether a value is a lazy weight, by its attribute, because its class imports this module."""
    return hasattr(value, "_zoo_store")


def to_dense(tree: Any) -> Any:
    """Replace every lazy weight in a nest of arguments by its dense tensor."""
    return tree_map(lambda value: value.dense() if _is_lazy(value) else value, tree)


def plain_arguments(args: tuple[Any, ...]) -> list[Any] | None:
    """Return arguments with dense tensors for the lazy weights; None if one of these has something to compute."""
    found = []
    for one in args:
        if _is_lazy(one):
            managed = _managed(one)
            one = managed.plain() if type(managed) is ManagedWeight else None
            if one is None or torch.is_autocast_enabled(one.device.type):
                return None
        found.append(one)
    return found


def _by_name(path: Path, *names: str) -> Path:
    """Let the leading arguments `names` of `path` be given by position or by keyword, as in torch."""

    def normalized(*args: Any, **kwargs: Any) -> Tensor | None:
        if len(args) < len(names):
            missing = names[len(args) :]
            if any(name not in kwargs for name in missing):
                return None
            args = (*args, *[kwargs.pop(name) for name in missing])
        return path(*args, **kwargs)

    return normalized


def _with_managed(op: Callable[..., Tensor | None], needs_dense: bool = True) -> Path:
    """Return a path for `op(input, weight, …)`: the second argument must be a managed weight, and the first must not.

    A managed bias is small, and is passed as its dense tensor.

    Args:
        op: The operation.
        needs_dense: Whether it takes the whole dense weight, and not only rows of it.
    """

    def path(input: Any, weight: Any, *args: Any, **kwargs: Any) -> Tensor | None:
        managed = _managed(weight, needs_dense)
        if managed is None or _managed(input, False) is not None:
            return None
        if args or kwargs:
            args, kwargs = to_dense((args, kwargs))
        return op(managed, input, *args, **kwargs)

    return _by_name(path, "input", "weight")


def _matmul(first: Any, second: Any, **kwargs: Any) -> Tensor | None:
    left, right = _managed(first), _managed(second)
    if kwargs or (left is None) == (right is None):
        return None
    return linear.matmul(right, first) if right is not None else linear.matmul_left(left, second)


def _mm(first: Any, second: Any, **kwargs: Any) -> Tensor | None:
    return _matmul(first, second, **kwargs) if first.dim() == second.dim() == 2 else None


def _rmatmul(second: Any, first: Any) -> Tensor | None:
    return _matmul(first, second)


def _addmm(bias: Any, x: Any, weight: Any, *, beta: float = 1, alpha: float = 1, **kwargs: Any) -> Tensor | None:
    managed = _managed(weight)
    if kwargs or managed is None or _managed(x) is not None:
        return None
    return linear.addmm(managed, to_dense(bias), x, beta=beta, alpha=alpha)


def recomputed(func: Callable[..., Any]) -> Path:
    """Return a path for any call of any function: it runs on dense weights.

    They are recomputed in the backward pass, not kept.
    """

    def path(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled() or transforms_active() or torch.compiler.is_compiling():
            return None
        if kwargs.get("out") is not None:
            return None
        leaves = tree_leaves((args, kwargs))
        weights = [in_force(leaf._zoo_store) for leaf in leaves if _is_lazy(leaf)]
        if all(managed.is_dense() for managed in weights):
            return None  # nothing to recompute: the dense weights exist already
        if not any(getattr(leaf, "requires_grad", False) for leaf in leaves):
            return None

        chosen = kept()

        def run(*inner: Any) -> Any:
            with keeping(chosen):
                dense_args, dense_kwargs = to_dense((inner, kwargs))
            return func(*dense_args, **dense_kwargs)

        random = any(managed.training and update.dropout for managed in weights for update in managed.active_updates())
        return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=random)

    return path


def _else_recomputed(path: Path, func: Callable[..., Any]) -> Path:
    """Return `path`, followed by `recomputed(func)` for the calls that it does not handle."""
    fallback = recomputed(func)

    def combined(*args: Any, **kwargs: Any) -> Any:
        y = path(*args, **kwargs)
        return fallback(*args, **kwargs) if y is None else y

    return combined


# Operations that take a managed weight in the weight's place, and the function's own positional arguments.
DIRECT: dict[Any, Callable[..., Tensor | None]] = {F.linear: linear.linear}

PATHS: dict[Any, Path] = {
    F.linear: _with_managed(linear.linear),
    torch.addmm: _by_name(_addmm, "input", "mat1", "mat2"),
    Tensor.addmm: _by_name(_addmm, "self", "mat1", "mat2"),
    torch.matmul: _by_name(_matmul, "input", "other"),
    torch.mm: _by_name(_mm, "input", "mat2"),
    Tensor.matmul: _by_name(_matmul, "self", "other"),
    Tensor.mm: _by_name(_mm, "self", "mat2"),
    Tensor.__matmul__: _matmul,
    Tensor.__rmatmul__: _rmatmul,
}
for _n, _plain, _transposed in (
    (1, F.conv1d, F.conv_transpose1d),
    (2, F.conv2d, F.conv_transpose2d),
    (3, F.conv3d, F.conv_transpose3d),
):
    DIRECT[_plain], DIRECT[_transposed] = conv.conv(_n), conv.conv_transpose(_n)
    PATHS[_plain], PATHS[_transposed] = _with_managed(DIRECT[_plain]), _with_managed(DIRECT[_transposed])
    PATHS[getattr(torch, f"conv{_n}d")] = PATHS[_plain]
    PATHS[getattr(torch, f"conv_transpose{_n}d")] = PATHS[_transposed]
PATHS = {func: _else_recomputed(path, func) for func, path in PATHS.items()}
PRODUCTS = frozenset(PATHS)  # those that a weight with nothing to compute takes as the library's own
_OTHERS = (torch.bmm, Tensor.bmm, torch.baddbmm, Tensor.baddbmm, torch.mv, Tensor.mv)
for _func in (*_OTHERS, torch.einsum, torch.tensordot, F.bilinear):
    PATHS[_func] = recomputed(_func)
PATHS[F.embedding] = _with_managed(embedding.embedding, needs_dense=False)
PATHS[F.embedding_bag] = embedding.refuse_renorm
