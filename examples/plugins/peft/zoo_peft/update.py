"""One weight's update as PEFT computes it: PEFT's own tuner on a plain layer of the weight's shape.

PEFT puts its tuner on a plain torch layer of the weight's shape, in a module in which that layer has the weight's path,
so that a configuration's settings by name apply. The plain layer's weight is then dropped: the tuner's parameters are
the update's, and its `get_delta_weight` computes what to do with the weight that comes in.
"""

from __future__ import annotations

import copy
import math
import re
import warnings
from typing import Any

import torch
from torch import Tensor, nn

import zoo
from zoo_peft.config import Peft
from zoo_peft.kinds import ADDED, SCALED, kind_of

NAME = "default"  # of the adapter inside the tuner
EMBEDDINGS = ("HIRA", "OFT")  # which have a tuner of their own for embeddings; to the others an embedding is a matrix
CONVOLUTIONS = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}


def tuner_update(name: str, weight: Any, config: Peft) -> zoo.Update:
    """Return the update that PEFT's tuner makes of one weight.

    Args:
        name: the parameter's.
        weight: the lazy weight, see `zoo.plugin.hookspecs.inject_adapter`.
        config: the adapter.

    Raises:
        zoo.AdapterError: PEFT has no such tuner for the weight's shape; the message names it.
    """
    kind = kind_of(config.config)
    view = View(weight.layout.flat, weight.shape, kind in EMBEDDINGS)
    dtype = torch.promote_types(weight.dtype, torch.float32)
    base = weight.base().detach()
    # PEFT computes with what it starts from, so on meta it gets zeros, and the tuner is moved there.
    layer = view.layer(view.of((torch.zeros(base.shape) if base.is_meta else base).to(dtype)))
    path = name.removesuffix(".weight")
    try:
        tuner = _tuned(layer, path, config.config)
    except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
        shape = "×".join(map(str, weight.shape))
        message = " ".join(str(error).split())
        raise zoo.AdapterError(f"{name} ({shape}): PEFT's {kind} does not take it: {message}") from error
    del tuner.get_base_layer()._parameters["weight"]
    return Turned(tuner.to(base.device), kind, view)


def _tuned(layer: nn.Module, path: str, config: Any) -> nn.Module:
    """Return PEFT's tuner around `layer`, put there by PEFT in a module in which the layer is at `path`."""
    import peft

    *outer, last = path.split(".")
    root = module = nn.Module()
    for part in outer:
        module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    module.add_module(last, layer)
    own = copy.deepcopy(config)
    own.target_modules, own.modules_to_save, own.inference_mode = re.escape(path), None, False
    with warnings.catch_warnings():
        # BOFT's kernel for GPUs is optional; and of names that patterns mention, there is but one here.
        warnings.filterwarnings("ignore", message="Failed to load the CUDA extension")
        if getattr(own, "boft_n_butterfly_factor", 1) == 1:
            warnings.filterwarnings("ignore", message="Setting boft_n_butterfly_factor to 1")
        warnings.filterwarnings("ignore", message=r"The following \w+_pattern keys did not match")
        peft.inject_adapter_in_model(own, root, NAME)
    return module.get_submodule(last)


class View:
    """A weight seen as the weight of a layer that PEFT knows: [outputs, inputs, *kernel]."""

    def __init__(self, layout: zoo.Layout, shape: torch.Size, embeddings: bool) -> None:
        self.shape = torch.Size(shape)
        self.embedding = embeddings and layout.zero_first and len(shape) == 2
        self.swapped = layout.transposed and not layout.zero_first
        # What is no matrix and no convolution, such as an attention vector with a leading 1, as a matrix.
        self.flat = layout.split if layout.split != 1 or len(shape) not in (2, *CONVOLUTIONS) else None

    def of(self, weight: Tensor) -> Tensor:
        """Return the weight as the layer's."""
        if self.flat is not None:
            weight = weight.reshape(math.prod(self.shape[: self.flat]), -1)
        return weight.transpose(0, 1) if self.swapped else weight

    def back(self, weight: Tensor) -> Tensor:
        """Return the weight in its own shape: the reverse of `of`."""
        return (weight.transpose(0, 1) if self.swapped else weight).reshape(self.shape)

    def layer(self, weight: Tensor) -> nn.Module:
        """Return a plain layer with this weight, which never computes anything."""
        outputs, inputs, *kernel = weight.shape
        made: nn.Module
        with torch.device("meta"):
            if self.embedding:
                made = nn.Embedding(outputs, inputs)
            elif kernel:
                made = CONVOLUTIONS[weight.dim()](inputs, outputs, tuple(kernel), bias=False)
            else:
                made = nn.Linear(inputs, outputs, bias=False)
        made.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
        return made


class Turned(zoo.Update):
    """A weight as PEFT's tuner changes it."""

    kind = "peft"

    def __init__(self, tuner: nn.Module, peft_kind: str, view: View) -> None:
        super().__init__()
        self.tuner = tuner
        self.peft_kind, self.view = peft_kind, view
        self.frozen = tuple(name for name, parameter in self.named_parameters() if not parameter.requires_grad)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the updated weight, computed in the wider type of the tuner's parameters and the weight."""
        dtype = weight.dtype
        wide = torch.promote_types(dtype, next(self.parameters()).dtype)
        with torch.autocast(weight.device.type, enabled=False):
            return self.view.back(self._changed(self.view.of(weight).to(wide))).to(dtype)

    def _changed(self, W: Tensor) -> Tensor:
        kind, tuner = self.peft_kind, self.tuner
        if kind == "IA3":
            # Over inputs in a feedforward layer, else over outputs, which PEFT may have second.
            scale = _of(tuner.ia3_l)
            return W * (scale if tuner.is_feedforward else scale.view(-1, *(1 for _ in W.shape[1:])))
        if kind == "MISS":
            if tuner.miss_fn == "bat":
                return W + tuner.get_delta_weight(NAME, W)
            return tuner.get_delta_weight_miss(NAME, W.clone())  # which may write to what it gets
        base = tuner.get_base_layer()
        base.__dict__["weight"] = W  # DEFT and PEANuT look it up
        try:
            delta = tuner.get_delta_weight(NAME)
        finally:
            del base.__dict__["weight"]
        if kind in ADDED:
            return W + (delta.to_dense() if delta.is_sparse else delta).view(W.shape)
        if kind in SCALED:
            return W + W * delta.view(W.shape)
        if kind == "OFT":
            return _turned_in_blocks(W, delta if self.view.embedding else delta.t(), tuner.oft_block_size[NAME])
        if kind == "HRA":
            return (W.flatten(1) @ delta).view(W.shape)
        rotation, scale = delta  # BOFT
        return ((W.flatten(1) @ rotation.t()) * scale.view(-1, 1)).view(W.shape)

    def for_bias(self, shape: torch.Size) -> zoo.Update | None:
        """Return the bias's update for IA3, which scales a layer's outputs unless it is in `feedforward_modules`."""
        if self.peft_kind != "IA3" or self.tuner.is_feedforward or shape.numel() != _of(self.tuner.ia3_l).numel():
            return None
        return Bias(self)

    def extra_repr(self) -> str:
        return f"{tuple(self.view.shape)}, {self.peft_kind}"


class Bias(zoo.Update):
    """A bias scaled by the vector of the update of its layer's weight."""

    kind = "peft"

    def __init__(self, weights: Turned) -> None:
        super().__init__()
        self.__dict__["weights"] = weights  # not a child: its parameters are the weight's

    def forward(self, weight: Tensor) -> Tensor:
        """Return bias · l, of the bias's own type."""
        return (weight * _of(self.weights.tuner.ia3_l).view(-1)).to(weight.dtype)


def _turned_in_blocks(W: Tensor, turn: Tensor, size: int) -> Tensor:
    """Return W @ turn for a `turn` that is zero outside its diagonal blocks of `size`, multiplying these only."""
    n = len(turn) // size
    blocks = turn.unflatten(1, (n, size)).unflatten(0, (n, size)).diagonal(dim1=0, dim2=2)  # [size, size, n]
    return torch.einsum("oni,ijn->onj", W.reshape(len(W), n, size), blocks).reshape(W.shape)


def _of(parameters: nn.ParameterDict) -> Tensor:
    return parameters[NAME]
