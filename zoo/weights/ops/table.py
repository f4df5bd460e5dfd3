"""Which operation on a managed weight has a path of its own; every other one gets the dense weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from zoo.weights.ops import conv, embedding, linear
from zoo.weights.ops.base import transforms_active

# A path gets the call's own positional and keyword arguments, with the stand-ins still among them, and returns None
# where the general path has to serve.
Path = Callable[..., Tensor | None]


def _store(value: Any) -> Any:
    """The store behind a stand-in; None for anything else, and for one that is cut from the graph (`weight.data`)."""
    store = getattr(value, "_zoo_store", None)
    return None if store is None or value._zoo_detached else store


def _dense(tree: Any) -> Any:
    from zoo.weights.lazy_weight import to_dense

    return to_dense(tree)


def _by_name(path: Path, *names: str) -> Path:
    """`path` with its leading arguments `names` given by position or by keyword, as torch allows."""

    def named(*args: Any, **kwargs: Any) -> Tensor | None:
        if len(args) < len(names):
            missing = names[len(args) :]
            if any(name not in kwargs for name in missing):
                return None
            args = (*args, *[kwargs.pop(name) for name in missing])
        return path(*args, **kwargs)

    return named


def _with_store(op: Callable[..., Tensor | None]) -> Path:
    """A path for `op(input, weight, …)`: the second argument must be the managed weight, and the first none.

    A managed bias is small, and goes in as the tensor that it stands for.
    """

    def path(input: Any, weight: Any, *args: Any, **kwargs: Any) -> Tensor | None:
        store = _store(weight)
        if store is None or _store(input) is not None:
            return None
        if args or kwargs:
            args, kwargs = _dense((args, kwargs))
        return op(store, input, *args, **kwargs)

    return _by_name(path, "input", "weight")


def _matmul(first: Any, second: Any, **kwargs: Any) -> Tensor | None:
    left, right = _store(first), _store(second)
    if kwargs or (left is None) == (right is None):
        return None
    return linear.matmul(right, first) if right is not None else linear.matmul_left(left, second)


def _mm(first: Any, second: Any, **kwargs: Any) -> Tensor | None:
    return _matmul(first, second, **kwargs) if first.dim() == second.dim() == 2 else None


def _rmatmul(second: Any, first: Any) -> Tensor | None:
    return _matmul(first, second)


def _addmm(bias: Any, x: Any, weight: Any, *, beta: float = 1, alpha: float = 1, **kwargs: Any) -> Tensor | None:
    store = _store(weight)
    if kwargs or store is None or _store(x) is not None:
        return None
    return linear.addmm(store, _dense(bias), x, beta=beta, alpha=alpha)


def recomputed(func: Callable[..., Any]) -> Path:
    """A path for any form of any function: run on the dense weights, which are made again in backward, not kept."""

    def path(*args: Any, **kwargs: Any) -> Any:
        from zoo.weights.lazy_weight import LazyWeight

        if not torch.is_grad_enabled() or transforms_active() or torch.compiler.is_compiling():
            return None
        if kwargs.get("out") is not None:
            return None
        leaves = tree_leaves((args, kwargs))
        held = [leaf._zoo_store for leaf in leaves if isinstance(leaf, LazyWeight)]
        if all(store.is_dense() for store in held):
            return None  # the dense weights are there anyway
        if not any(getattr(leaf, "requires_grad", False) for leaf in leaves):
            return None

        def run(*inner: Any) -> Any:
            dense_args, dense_kwargs = _dense((inner, kwargs))
            return func(*dense_args, **dense_kwargs)

        drawn = any(store.training and update.dropout for store in held for update in store.active_updates())
        return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=drawn)

    return path


def _or_recomputed(path: Path, func: Callable[..., Any]) -> Path:
    """`path`, and for the forms that it does not serve `func` on dense weights that are not kept."""
    again = recomputed(func)

    def both(*args: Any, **kwargs: Any) -> Any:
        y = path(*args, **kwargs)
        return again(*args, **kwargs) if y is None else y

    return both


# The operations that take a store where the function takes the weight, with the function's own positional arguments.
DIRECT: dict[Any, Callable[..., Tensor | None]] = {F.linear: linear.linear}

PATHS: dict[Any, Path] = {
    F.linear: _with_store(linear.linear),
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
    PATHS[_plain], PATHS[_transposed] = _with_store(DIRECT[_plain]), _with_store(DIRECT[_transposed])
    PATHS[getattr(torch, f"conv{_n}d")] = PATHS[_plain]
    PATHS[getattr(torch, f"conv_transpose{_n}d")] = PATHS[_transposed]
PATHS = {func: _or_recomputed(path, func) for func, path in PATHS.items()}
_products = (torch.bmm, Tensor.bmm, torch.baddbmm, Tensor.baddbmm, torch.mv, Tensor.mv)
for _func in (*_products, torch.einsum, torch.tensordot, F.bilinear):
    PATHS[_func] = recomputed(_func)
PATHS[F.embedding] = _with_store(embedding.embedding)
PATHS[F.embedding_bag] = embedding.refuse_renorm
