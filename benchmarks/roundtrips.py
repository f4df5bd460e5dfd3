"""Adapters from zoo to PEFT and from PEFT to zoo, and from diffusers and LyCORIS to zoo: how far the outputs are apart.

    python benchmarks/roundtrips.py [--only NAME] [--quick]

Every case makes an adapter with random factors in one library over a small random model, saves it, loads it in the
other one, and compares the outputs of both models on fresh inputs: the largest difference, relative to the largest
output. `effect` is how far the adapter moves the outputs, on the same scale. 4 bit: over zoo's 4-bit base, and PEFT
over the values that its weights stand for.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import zoo
from zoo.catalog import discovery

Inputs = tuple[Tensor, ...]


class Figure(NamedTuple):
    """What a round trip came to: both relative to the largest output."""

    difference: float
    effect: float


class Bed(NamedTuple):
    """A small model to adapt. lists of targets by the kind of layer that they are for."""

    build: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    targets: dict[str, list[str]]
    saved: list[str]  # modules to save


def randomised(module: nn.Module) -> nn.Module:
    """Weights, norms and biases with values that tell them apart."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.1 * torch.randn_like(parameter) + 0.3 * (parameter.dim() < 2))
    return module.eval()


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 40}
    return randomised(GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)))


def bert() -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    return randomised(BertForMaskedLM(BertConfig(**sizes, vocab_size=40, max_position_embeddings=16)))


def vit() -> nn.Module:
    import timm

    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_classes": 5}
    return randomised(timm.create_model("vit_tiny_patch16_224", **sizes))


def unet() -> nn.Module:
    from diffusers import UNet2DModel

    sizes = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "norm_num_groups": 4}
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    return randomised(UNet2DModel(**sizes, **blocks, block_out_channels=(8, 16), attention_head_dim=8))


def vae() -> nn.Module:
    from diffusers import AutoencoderKL

    sizes = {"in_channels": 1, "out_channels": 1, "latent_channels": 2, "norm_num_groups": 4, "sample_size": 8}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return randomised(AutoencoderKL(**sizes, **blocks, block_out_channels=(8, 16)))


class Encoder(nn.Module):
    """Two of torch's own transformer layers: their attentions are `nn.MultiheadAttention`."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x))


class Experts(nn.Module):
    """Raw parameters of two and three dimensions, and a layer inside."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(3, 12, 8))  # (experts, out, in)
        self.down = nn.Parameter(torch.randn(8, 12))
        self.mix = nn.Parameter(torch.randn(1, 8, 8))
        self.gate = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x @ self.mix[0].T
        each = torch.einsum("ni,eoi->neo", x, self.up).tanh()
        return torch.einsum("ne,neo->no", self.gate(x).softmax(-1), each) @ self.down.T


class Mixture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.experts = Experts()
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.experts(self.first(x)))


class Signal(nn.Module):
    """Convolutions of one and three dimensions after an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.conv1d = nn.Conv1d(8, 6, 3, padding=1, stride=2)
        self.conv3d = nn.Conv3d(1, 4, (1, 3, 2), padding=(0, 1, 0))
        self.norm = nn.BatchNorm1d(20)
        self.fc = nn.Linear(20, 5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.conv1d(self.embed(ids).transpose(1, 2))  # (n, 6, 6)
        x = self.conv3d(x[:, None, None]).mean((2, 3))  # (n, 4, 5)
        return self.fc(self.norm(x.flatten(1)))


def tokens() -> Inputs:
    return (torch.randint(0, 40, (2, 12)),)


BEDS = {
    "GPT-2": Bed(
        gpt2,
        tokens,
        {"Conv1D": ["c_attn", "c_fc"], "Embedding": ["wpe"], "tied Embedding": ["wte", "lm_head"], "IA3": ["c_attn"]},
        ["ln_f"],
    ),
    "BERT": Bed(
        bert,
        tokens,
        {
            "Linear": ["query", "value", "intermediate.dense"],
            "Embedding": ["position_embeddings", "token_type_embeddings"],
            "product": ["query", "intermediate.dense"],
            "IA3": ["query", "output.dense"],
        },
        ["transform"],
    ),
    "ViT (timm)": Bed(
        vit,
        lambda: (torch.randn(2, 3, 16, 16),),
        {
            "Linear": ["qkv", "fc1"],
            "Conv2d": ["patch_embed.proj"],
            "product": ["qkv", "patch_embed.proj"],
            "IA3": ["fc1"],
        },
        ["head", "norm1"],
    ),
    "UNet2DModel": Bed(
        unet,
        lambda: (torch.randn(2, 1, 8, 8), torch.tensor([3, 700])),
        {
            "Linear": ["to_q", "to_out.0", "linear_1"],
            "Conv2d": ["conv1", "conv_in", "downsamplers.0.conv"],
            "product": ["to_v", "conv2"],
            "IA3": ["to_v", "conv2"],
        },
        ["conv_norm_out", "conv_out"],
    ),
    "AutoencoderKL": Bed(
        vae,
        lambda: (torch.randn(2, 1, 8, 8),),
        {"Linear": ["to_q", "to_v"], "Conv2d": ["conv1", "quant_conv"], "product": ["to_k", "conv2"], "IA3": ["conv2"]},
        ["decoder.conv_norm_out"],
    ),
    "nn.TransformerEncoder": Bed(
        Encoder, lambda: (torch.randn(2, 5, 16),), {"MHA": ["self_attn", "linear1"], "product": ["linear2"]}, ["head"]
    ),
    "raw parameters": Bed(Mixture, lambda: (torch.randn(3, 6),), {"Linear": ["first", "gate"]}, ["head"]),
    "signal": Bed(
        Signal, lambda: (torch.randint(0, 11, (3, 12)),), {"Conv1d, Conv3d": ["embed", "conv1d", "conv3d"]}, ["norm"]
    ),
}


class Case(NamedTuple):
    """One adapter: how zoo says it, and how PEFT does (the class of its configuration and the arguments)."""

    config: Callable[[], zoo.Adapter] | None
    theirs: tuple[str, dict[str, Any]] | None


def cases(bed: Bed) -> Iterator[tuple[str, Case]]:
    """What is tried on a bed, by name."""
    for layer, targets in bed.targets.items():
        if layer not in ("product", "IA3"):
            case = _lora(_ours(targets), targets)
            # PEFT itself trains two adapters of one tied weight, which zoo refuses.
            yield f"LoRA, {layer}", case._replace(theirs=None) if "tied" in layer else case
    layer = next(iter(bed.targets))
    targets = bed.targets[layer]
    ours, last = _ours(targets), targets[-1]
    yield "rsLoRA", _lora(ours, targets, {"rslora": True}, {"use_rslora": True})
    patterns: dict[str, Any] = {"rank_pattern": {last: 5}, "alpha_pattern": {targets[0]: 3.0}}
    yield "rank and alpha patterns", _lora(ours, targets, patterns, patterns)
    if layer != "MHA":
        yield f"DoRA, {layer}", _lora(ours, targets, {"dora": True}, {"use_dora": True})
    yield "bias all", _lora(ours, targets, {"bias": "all"}, {"bias": "all"})
    yield "bias lora_only", _lora(ours, targets, {"bias": "lora_only"}, {"bias": "lora_only"})
    yield "modules_to_save", _lora(ours, targets, {"modules_to_save": bed.saved}, {"modules_to_save": bed.saved})
    if "Conv2d" in bed.targets:
        targets = bed.targets["Conv2d"]
        yield "DoRA, Conv2d", _lora(targets, targets, {"dora": True}, {"use_dora": True})
    if "Embedding" in bed.targets:
        targets = bed.targets["Embedding"]
        yield "DoRA, Embedding", _lora(targets, targets, {"dora": True}, {"use_dora": True})
    if bed.build is Mixture:
        yield "target_parameters, 2-D", _parameters(["experts.down", "experts.mix"])
        yield "target_parameters, one", _parameters(["experts.down"])
        theirs = {"target_parameters": ["experts.up", "experts.mix"], "target_modules": ["first"], "r": 2}
        yield "target_parameters, 3-D", Case(None, ("LoraConfig", theirs))
    if "product" in bed.targets:
        yield from _products(bed.targets["product"])
    if "IA3" in bed.targets and "ia3" in discovery.claims():  # a plugin
        yield "IA3", _ia3(bed.targets["IA3"], [])
        yield "IA3, feedforward", _ia3(bed.targets["IA3"], bed.targets["IA3"][-1:])


def _ours(targets: list[str]) -> list[str]:
    """PEFT adapts an attention where its module is named; zoo its two weights."""
    return [t for one in targets for t in ((f"{one}.in_proj_weight", "out_proj") if one == "self_attn" else (one,))]


def _lora(
    ours: list[str], theirs: list[str], our: dict[str, Any] | None = None, their: dict[str, Any] | None = None
) -> Case:
    kind = {"r": 4, "lora_alpha": 7, "target_modules": theirs, **(their or {})}
    return Case(lambda: zoo.LoRA(rank=4, alpha=7, targets=ours, **(our or {})), ("LoraConfig", kind))


def _parameters(names: list[str]) -> Case:
    theirs = {"r": 3, "lora_alpha": 5, "target_modules": ["first", "gate"], "target_parameters": names}
    return Case(lambda: zoo.LoRA(rank=3, alpha=5, targets=["first", "gate", *names]), ("LoraConfig", theirs))


def _products(targets: list[str]) -> Iterator[tuple[str, Case]]:
    for kind in ("LoHa", "LoKr"):
        variants: dict[str, dict[str, Any]] = {"": {}, ", cores": {"use_effective_conv2d": True}}
        if kind == "LoKr":
            variants[", both decomposed"] = {"decompose_both": True, "decompose_factor": 2}
        for name, options in variants.items():
            ours = lambda kind=kind, options=options: getattr(zoo, kind)(rank=2, alpha=3, targets=targets, **options)  # noqa: E731
            yield kind + name, Case(ours, (f"{kind}Config", {"r": 2, "alpha": 3, "target_modules": targets, **options}))


def _ia3(targets: list[str], feedforward: list[str]) -> Case:
    def ours() -> zoo.Adapter:
        from zoo_ia3 import IA3

        return IA3(targets=targets, feedforward=feedforward)

    return Case(ours, ("IA3Config", {"target_modules": targets, "feedforward_modules": feedforward}))


# Both directions


@torch.no_grad()
def run(model: Any, inputs: Inputs) -> Tensor:
    """A model's output, without torch's fast path, in which PEFT's adapters of attentions do nothing."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        output = model(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return output if isinstance(output, Tensor) else output[0]


def perturb(module: nn.Module) -> None:
    """Move everything that trains, so that an adapter does something."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                size = 0.5 if "hada_" in name else 0.2  # LoHa multiplies four to six of them
                parameter.add_(size * torch.randn_like(parameter))


def figure(ours: Tensor, theirs: Tensor, plain: Tensor) -> Figure:
    size = max(1.0, float(theirs.abs().max()))
    return Figure(float((ours - theirs).abs().max()) / size, float((theirs - plain).abs().max()) / size)


def bases(bed: Bed, bits: int | None) -> tuple[zoo.Model, nn.Module]:
    """zoo's model of a bed, and the module that PEFT is to adapt: of the same weights."""
    base = bed.build().eval()
    model = zoo.wrap(copy.deepcopy(base), bits=bits)
    if bits:
        base.load_state_dict(model.state_dict())
    return model, base


def to_peft(bed: Bed, config: zoo.Adapter, bits: int | None, folder: Path) -> Figure:
    """zoo makes and saves the adapter, PEFT loads it, every key in its place."""
    import peft
    from safetensors.torch import load_file

    model, base = bases(bed, bits)
    inputs = bed.inputs()
    plain = run(base, inputs)
    model.add_adapter("default", config)
    perturb(model.module)
    model.save_adapter(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(base, peft.PeftConfig.from_pretrained(str(folder))).eval()
        loaded = peft.set_peft_model_state_dict(theirs, load_file(folder / "adapter_model.safetensors"))
    trained = ("lora_", "hada_", "lokr_", "ia3_", "modules_to_save")
    left = [key for key in loaded.missing_keys if any(word in key for word in trained)]
    assert not loaded.unexpected_keys, f"PEFT has no place for {loaded.unexpected_keys}"
    assert not left, f"PEFT was given nothing for {left}"
    return figure(run(model, inputs), run(theirs, inputs), plain)


def from_peft(bed: Bed, kind: str, options: dict[str, Any], bits: int | None, folder: Path) -> Figure:
    """PEFT makes and saves the adapter, zoo loads it; and what zoo saves of it is the same adapter again."""
    import peft

    model, base = bases(bed, bits)
    inputs = bed.inputs()
    plain = run(base, inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(base, getattr(peft, kind)(**options)).eval()
        perturb(theirs)
        theirs.save_pretrained(str(folder / "theirs"))
    model.add_adapter("theirs", folder / "theirs")
    first = run(model, inputs)
    model.save_adapter(folder / "ours")
    model.remove_adapter("theirs")
    model.add_adapter("again", folder / "ours")
    assert torch.equal(run(model, inputs), first)
    return figure(first, run(theirs, inputs), plain)


def tried(only: str = "") -> Iterator[tuple[str, Callable[[Path], Figure]]]:
    """Every round trip by name: a function of a new folder."""
    for place, bed in BEDS.items():
        for what, case in cases(bed):
            for bits in (None, 4):
                name = f"{place}, {what}{', 4 bit' if bits else ''}"
                if case.config is not None and only in f"zoo → PEFT: {name}":
                    yield (
                        f"zoo → PEFT: {name}",
                        lambda folder, bed=bed, case=case, bits=bits: to_peft(bed, case.config(), bits, folder),
                    )
                if case.theirs is not None and only in f"PEFT → zoo: {name}":
                    yield (
                        f"PEFT → zoo: {name}",
                        lambda folder, bed=bed, case=case, bits=bits: from_peft(bed, *case.theirs, bits, folder),
                    )


def main() -> None:
    only = (
        sys.argv[sys.argv.index("--only") + 1] if "--only" in sys.argv else "GPT-2, rs" if "--quick" in sys.argv else ""
    )
    rows = {}
    for name, trip in tried(only):
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = trip(Path(folder))._asdict()
        if "--json" not in sys.argv:
            print(f"{name:75} {rows[name]['difference']:.1e}   effect {rows[name]['effect']:.2f}", flush=True)
    if "--json" in sys.argv:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
