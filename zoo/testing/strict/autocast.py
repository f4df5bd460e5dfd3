"""Autocast on the strict accelerator: which operations run in the narrow type and which in float32, as on CUDA.

The lists are those of torch's `aten/src/ATen/autocast_mode.h` for CUDA, of operations that networks here use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from zoo.testing.strict.tensor import NAME


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NARROW = _names("""
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d.input conv_transpose3d.input convolution linear matmul mm mv
    bmm addmm addmv addr baddbmm addbmm chain_matmul einsum prelu scaled_dot_product_attention linalg_vecdot
""")
WIDE = _names("""
    acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow.Tensor_Scalar pow.Tensor_Tensor
    pow.Scalar softplus layer_norm group_norm native_layer_norm native_group_norm norm.Scalar norm.ScalarOpt_dim
    norm.names_ScalarOpt_dim frobenius_norm.dim nuclear_norm cosine_similarity poisson_nll_loss
    cosine_embedding_loss nll_loss nll_loss2d hinge_embedding_loss kl_div l1_loss smooth_l1_loss huber_loss mse_loss
    margin_ranking_loss multilabel_margin_loss soft_margin_loss triplet_margin_loss multi_margin_loss
    binary_cross_entropy_with_logits dist pdist cdist renorm logsumexp prod softmax.int log_softmax.int cumprod cumsum
    sum sum.dim_IntList upsample_nearest2d upsample_bilinear2d.vec
""")
# In the widest type among their arguments.
WIDEST = _names("""
    addcdiv addcmul atan2 bilinear cross dot grid_sampler index_put scatter_add tensordot vdot cat stack
""")
_KEY = torch._C.DispatchKey.AutocastPrivateUse1  # type: ignore[attr-defined]


def register_autocast(library: torch.library.Library) -> None:
    """Register what casts the arguments of the operations in the lists."""
    for names, choose in ((NARROW, _narrow), (WIDE, _wide), (WIDEST, _widest)):
        for name, func in _known(names):
            library.impl(name, _casting(func, choose), "AutocastPrivateUse1")


def _known(names: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Yield the operations that this version of torch has."""
    for name in names:
        base, _, overload = name.partition(".")
        packet = getattr(torch.ops.aten, base, None)
        if packet is not None and (overload or "default") in packet.overloads():
            yield name, getattr(packet, overload or "default")


def _casting(func: Any, choose: Callable[[list[Tensor]], torch.dtype | None]) -> Callable[..., Any]:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        tensors = [one for one in _floats((args, tuple(kwargs.values()))) if one.device.type == NAME]
        dtype = choose(tensors)
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(_KEY)):
            if dtype is not None:
                args, kwargs = _cast(args, dtype), {key: _cast(value, dtype) for key, value in kwargs.items()}
            return func(*args, **kwargs)

    return kernel


def _narrow(tensors: list[Tensor]) -> torch.dtype | None:
    return torch.get_autocast_dtype(NAME)


def _wide(tensors: list[Tensor]) -> torch.dtype | None:
    return torch.float32


def _widest(tensors: list[Tensor]) -> torch.dtype | None:
    return torch.float32 if any(one.dtype == torch.float32 for one in tensors) else None


def _floats(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    return [one for item in value for one in _floats(item)] if isinstance(value, list | tuple) else []


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Return an argument with its tensors on the device cast, but for those of float64 and integers."""
    if isinstance(value, Tensor):
        casts = value.is_floating_point() and value.dtype != torch.float64 and value.device.type == NAME
        return value.to(dtype) if casts else value
    return type(value)(_cast(one, dtype) for one in value) if isinstance(value, list | tuple) else value
