"""The table of spellings: how tools write an adapter's keys and numbers. Every reader gets them in one form.

A key is a layer's path, dotted or with underscores, after any of `PREFIXES`, and a part, which `PARTS` gives LyCORIS's
name: `lora_down.weight` for `lora_A.weight`, `lora.down.weight`, `lora_linear_layer.down.weight` and so on. Numbers
have any type and 0 dimensions or 1; factors of a linear layer may have a convolution's dimensions, and the reverse.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.errors import AdapterError

UP, DOWN, MID, SCALE = "lora_up.weight", "lora_down.weight", "lora_mid.weight", "dora_scale"
MAGNITUDE = "lora_magnitude_vector"  # PEFT's `dora_scale`, in other dimensions
EMBEDDING_A, EMBEDDING_B = "lora_embedding_A", "lora_embedding_B"
DIFFERENCES = ("diff", "diff_b", "w_norm", "b_norm")  # what is added to a weight or bias: LyCORIS's full and norms

_NAME = r"(?:\.(?!(?:weight|bias)$)[^.]+)?"  # an adapter's name, which PEFT has in memory but does not write
_HADA = ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")
_LOKR = ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")
_OTHERS = "|".join([*DIFFERENCES, "scalar", *(f"hada_{name}" for name in _HADA), *(f"lokr_{name}" for name in _LOKR)])
_DOWN = r"(?:\.lora_down|[._]lora\.down|\.lora_linear_layer\.down)\.weight"
_UP = r"(?:\.lora_up|[._]lora\.up|\.lora_linear_layer\.up)\.weight"
# The end of a key → the part's name in LyCORIS; None for the end itself. The attention processors of old diffusers
# come first, whose paths end in another way.
PARTS: tuple[tuple[re.Pattern[str], str | None], ...] = tuple(
    (re.compile(f"(?P<stem>.+?){end}"), part)
    for end, part in (
        (r"(?:\.processor)?\.to_(?P<attention>q|k|v|out)_lora\.up\.weight", UP),
        (r"(?:\.processor)?\.to_(?P<attention>q|k|v|out)_lora\.down\.weight", DOWN),
        (rf"(?:{_UP}|\.lora_B{_NAME}(?:\.weight)?)", UP),
        (rf"(?:{_DOWN}|\.lora_A{_NAME}(?:\.weight)?)", DOWN),
        (r"\.lora_mid\.weight", MID),
        (r"\.lora_embedding_A(?:\.[^.]+)?", EMBEDDING_A),
        (r"\.lora_embedding_B(?:\.[^.]+)?", EMBEDDING_B),
        (r"\.alpha(?:\.weight)?", "alpha"),
        (r"\.dora_scale", SCALE),
        (rf"\.lora_magnitude_vector{_NAME}(?:\.weight)?", MAGNITUDE),
        (rf"\.(?P<part>{_OTHERS})", None),
    )
)

# What tools put before a path, with a dot or an underscore after it → which part of a pipeline the keys are for; ""
# says nothing about that.
PREFIXES: dict[str, str] = {
    **dict.fromkeys(("base_model.model", "model", "module", "lycoris", "lora"), ""),
    **dict.fromkeys(("unet", "lora_unet", "diffusion_model", "transformer", "lora_transformer"), "denoiser"),
    **dict.fromkeys(("prior", "lora_prior", "lora_prior_unet"), "denoiser"),
    **dict.fromkeys(("transformer_2", "lora_transformer_2"), "second denoiser"),
    **dict.fromkeys(("text_encoder", "lora_te", "lora_te1", "lora_prior_te", "text_encoders.clip_l"), "text encoder"),
    **dict.fromkeys(("text_encoder_2", "lora_te2", "text_encoders.clip_g"), "second text encoder"),
    **dict.fromkeys(("text_encoder_3", "lora_te3", "text_encoders.t5xxl"), "third text encoder"),
    **dict.fromkeys(("vae", "lora_vae", "first_stage_model"), "autoencoder"),
    **dict.fromkeys(("image_encoder", "lora_image_encoder"), "image encoder"),
    **dict.fromkeys(("controlnet", "lora_controlnet"), "control net"),
}
_WORDS = "|".join(re.escape(word) for word in sorted(PREFIXES, key=len, reverse=True))
_PREFIX = re.compile(rf"(?:{_WORDS})[._]")
# Children of the modules that torch puts around one that it compiles or distributes.
_WRAPPERS = re.compile(r"(?<![^._])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?:\\?\.|_)")
_AROUND = re.compile(r"^(?:module\.)+(?=base_model\.)|(?<=^base_model\.model\.)module\.(?=.)")
_IN_MEMORY = re.compile(rf"(?P<factor>.+\.lora_(?:[AB]|magnitude_vector)){_NAME}(?P<weight>\.weight)?")


class Key(NamedTuple):
    """A key of a file.

    Attributes:
        name: as it is in the file.
        stem: the layer's path with any prefixes, with dots or underscores.
        part: LyCORIS's name of the part.
        cuts: how many of the stem's first letters may be prefixes: 0, and the end of each of them.
    """

    name: str
    stem: str
    part: str
    cuts: tuple[int, ...]

    @property
    def prefix(self) -> str:
        """All that may be prefixes."""
        return self.stem[: self.cuts[-1]]


def parse(name: str) -> Key | None:
    """Return the parts of a key; None if the table has no such spelling."""
    plain = without_wrappers(name)
    for pattern, part in PARTS:
        if match := pattern.fullmatch(plain):
            found = match.groupdict()
            stem = found["stem"]
            if "attention" in found:
                stem += ".to_out.0" if found["attention"] == "out" else f".to_{found['attention']}"
            cuts = [0]
            while prefix := _PREFIX.match(stem, cuts[-1]):
                cuts.append(prefix.end())
            return Key(name, stem, part or found["part"], tuple(cuts))
    return None


def component(prefix: str) -> str:
    """Return which part of a pipeline the prefixes of a key name; "" for none."""
    words, start = [""], 0
    while match := _PREFIX.match(prefix, start):
        words.append(PREFIXES[match[0][:-1]])
        start = match.end()
    return max(words, key=bool)


def without_wrappers(name: str) -> str:
    """Return a key, path or pattern without the names that torch's wrappers add to it."""
    return _WRAPPERS.sub("", name)


def peft_key(name: str) -> str:
    """Return a key of PEFT's as PEFT writes it: without an adapter's name, and without wrappers."""
    plain = _AROUND.sub("", without_wrappers(name))
    if match := _IN_MEMORY.fullmatch(plain):
        return match["factor"] + (match["weight"] or "")
    return plain


# Values


def number(path: str, what: str, tensor: Tensor) -> float:
    """Return a number that may have any type, and no dimensions or one of size 1.

    Raises:
        AdapterError: it is none.
    """
    if tensor.numel() != 1 or tensor.is_complex() or tensor.dtype is torch.bool:
        raise AdapterError(f"{path}: expected one number as its {what}, got a tensor of shape {tuple(tensor.shape)}")
    return float(tensor)


def widened(tensor: Tensor) -> Tensor:
    """Return a tensor of a type that torch computes with: 8-bit floats as float16, which has all their values."""
    return tensor.half() if tensor.is_floating_point() and tensor.itemsize == 1 else tensor


def squeezed(tensor: Tensor, dimensions: int = 2) -> Tensor:
    """Return a tensor without dimensions of size 1 at its end, as long as it has more than `dimensions`."""
    while tensor.dim() > dimensions and tensor.shape[-1] == 1:
        tensor = tensor.squeeze(-1)
    return tensor


def as_kernel(tensor: Tensor, shape: torch.Size) -> Tensor:
    """Return a factor of a convolution's kernel in the kernel's dimensions, if it has as many values as they take.

    Args:
        tensor: (rows, columns of all dimensions), or with dimensions of size 1 after them.
        shape: (any, inputs, *kernel); `tensor` becomes (rows, inputs, *kernel).
    """
    flat = squeezed(tensor)
    if flat.dim() == 2 and flat.shape[1] == shape[1:].numel():
        return flat.reshape(flat.shape[0], *shape[1:])
    return tensor
