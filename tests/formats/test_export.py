"""Adapters written for diffusers, kohya's scripts and LyCORIS: read back by them, and by zoo, with equal outputs."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from packaging.version import Version
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import zoo
from zoo.errors import AdapterError, OutputError

from .helpers import EXPECTED, close, conditional, noisy, run, small, vae

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:peft"),
]
FILE = "pytorch_lora_weights.safetensors"


def moved(model: zoo.Model, size: float = 0.2) -> zoo.Model:
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return model


# diffusers

LORAS: dict[str, zoo.LoRA] = {
    "linear": zoo.LoRA(3, 5, targets=["to_q", "to_v"]),
    "convolutions and ranks": zoo.LoRA(
        3, targets=["conv1", "conv_in", "to_k"], rank_pattern={"conv_in": 2}, alpha_pattern={"to_k": 7}
    ),
    "dora": zoo.LoRA(2, dora=True, targets=["to_q", "conv2"]),
    "rslora": zoo.LoRA(2, rslora=True, targets=["to_k"]),
    "pissa": zoo.LoRA(2, init="pissa", targets=["to_k"]),
}


@pytest.mark.parametrize("kind", LORAS)
@pytest.mark.parametrize("make", [conditional, vae])
def test_diffusers_reads_what_was_written_for_it(make: Callable[[], nn.Module], kind: str, tmp_path: Path) -> None:
    module = make()
    inputs = noisy() if make is conditional else (torch.randn(2, 1, 8, 8),)
    model = moved(zoo.wrap(copy.deepcopy(module), lora=LORAS[kind]))
    assert model.save_adapter(tmp_path, format="diffusers") == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    theirs, prefix = copy.deepcopy(module), "unet" if make is conditional else None
    theirs.load_lora_adapter(tmp_path, prefix=prefix, use_safetensors=True)  # type: ignore[operator]
    expected = run(model, *inputs)
    assert close(run(theirs, *inputs), expected)
    assert not close(run(module, *inputs), expected, 1e-3)
    assert close(run(zoo.wrap(copy.deepcopy(module), lora=tmp_path), *inputs), expected)
    if kind == "convolutions and ranks" and Version(diffusers.__version__) < Version("0.40"):
        pytest.skip(f"diffusers {diffusers.__version__} takes, without metadata, one rank for the alpha of all layers")
    without_metadata = copy.deepcopy(module)
    without_metadata.load_lora_adapter(load_file(tmp_path / FILE), prefix=prefix)  # type: ignore[operator]
    assert close(run(without_metadata, *inputs), expected)


def test_a_pipeline_reads_it(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    module = conditional()
    model = moved(zoo.wrap(copy.deepcopy(module), lora=LORAS["convolutions and ranks"]))
    model.save_adapter(tmp_path, format="diffusers")
    state, alphas, metadata = StableDiffusionPipeline.lora_state_dict(tmp_path, return_lora_metadata=True)
    StableDiffusionPipeline.load_lora_into_unet(state, network_alphas=alphas, unet=module, metadata=metadata)
    inputs = noisy()
    assert close(run(module, *inputs), run(model, *inputs))


def test_a_transformer_is_called_so_and_a_prefix_can_be_chosen(tmp_path: Path) -> None:
    from diffusers import SD3Transformer2DModel

    sizes = {"num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 1, "sample_size": 4, "patch_size": 1}
    more = {"joint_attention_dim": 8, "caption_projection_dim": 8, "pooled_projection_dim": 8, "pos_embed_max_size": 4}
    module = SD3Transformer2DModel(**sizes, **more, in_channels=2, out_channels=2).eval()
    inputs = torch.randn(1, 2, 4, 4), torch.randn(1, 3, 8), torch.randn(1, 8), torch.tensor([3])
    model = moved(zoo.wrap(copy.deepcopy(module), lora=zoo.LoRA(2, targets=["to_q"])))
    expected = run(model, *inputs)
    for prefix, start in ((None, "transformer."), ("prior", "prior.")):
        folder = tmp_path / start
        model.save_adapter(folder, format="diffusers", prefix=prefix)
        assert all(key.startswith(start) for key in load_file(folder / FILE))
        again = zoo.wrap(copy.deepcopy(module), lora=folder)
        assert close(run(again, *inputs), expected)
    module.load_lora_adapter(tmp_path / "transformer.", use_safetensors=True)
    assert close(run(module, *inputs), expected)


# kohya and LyCORIS


def has_lycoris() -> bool:
    return importlib.util.find_spec("lycoris") is not None


def by_lycoris(file: Path, module: nn.Module, x: Tensor) -> Tensor:
    from lycoris import create_lycoris_from_weights

    network, _ = create_lycoris_from_weights(1.0, str(file), module)
    network.apply_to()
    found = run(module, x)
    network.restore()
    return found


@pytest.mark.parametrize(
    "name", ["locon", "locon_ranks", "locon_dora", "loha", "loha_tucker", "lokr", "lokr_factor", "lokr_full"]
)
def test_what_lycoris_wrote_is_written_as_lycoris_does(name: str, tmp_path: Path) -> None:
    file = Path(__file__).parent / "data" / f"lycoris_{name}.safetensors"
    model = zoo.wrap(small(name), lora={"mine": file})
    model.save_adapter(tmp_path, format="kohya")
    written, theirs = load_file(tmp_path / "mine.safetensors"), load_file(file)
    assert written.keys() == theirs.keys()
    for key, tensor in theirs.items():
        stem = key.partition(".")[0]
        whole = {f"{stem}.lokr_w1", f"{stem}.lokr_w2"} <= theirs.keys()
        if not (whole and key.endswith("alpha")):  # which has no effect there
            torch.testing.assert_close(written[key], tensor.float(), msg=key)
    assert close(run(zoo.wrap(small(name), lora=tmp_path), EXPECTED["x"]), EXPECTED[name])
    if has_lycoris():
        assert close(by_lycoris(tmp_path / "mine.safetensors", small(name), EXPECTED["x"]), EXPECTED[name])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.block = nn.ModuleDict({"fc": nn.Linear(6, 8), "conv": nn.Conv2d(8, 8, (3, 1), groups=2, padding=(1, 0))})
        self.group, self.last = nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block["fc"](self.norm(x)).permute(0, 3, 1, 2)  # (n, 8, 5, 5)
        return self.last(self.group(self.block["conv"](x)).tanh())


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


ANY: dict[str, Any] = {
    "LoCon": zoo.LoRA(2, 3, targets=["fc", "conv", "last"], rank_pattern={"conv": 1}, alpha_pattern={"fc": 5}),
    "DoRA, rank-stabilised": zoo.LoRA(2, 3, dora=True, rslora=True, targets=["fc", "conv", "last"]),
    "norms beside": zoo.LoRA(2, targets=["fc"], modules_to_save=["norm", "group.weight"]),
    "only biases": zoo.Full(targets=["conv.bias", "norm.bias"]),
    "full": zoo.Full(targets=["fc", "last"]),
    "LoHa": zoo.LoHa(2, 3, targets=["fc", "conv", "last"], modules_to_save=["norm"]),
    "LoHa with cores": zoo.LoHa(2, 3, targets=["conv"], use_effective_conv2d=True),
    "LoKr": zoo.LoKr(1, 3, targets=["fc", "last"]),
    "LoKr, whole factors of another scale": zoo.LoKr(8, 3, targets=["fc", "last"]),
}


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("kind", ANY)
def test_kohyas_format_has_all_that_lycoris_has(kind: str, bits: int | None, tmp_path: Path) -> None:
    x = torch.randn(2, 5, 5, 6)
    model = moved(zoo.wrap(net(), bits=bits, lora=ANY[kind]))
    model.save_adapter(tmp_path, format="kohya")
    file = tmp_path / "default.safetensors"
    assert all(key.startswith("lycoris_") for key in load_file(file))
    expected = run(model, x)
    again = zoo.wrap(net(), bits=bits, lora=tmp_path)
    assert close(run(again, x), expected)
    again.deactivate()
    assert not close(run(again, x), expected, 1e-3)
    if has_lycoris() and bits is None:
        assert close(by_lycoris(file, net(), x), expected)


def test_a_unet_of_diffusers_has_kohyas_prefix_and_another_can_be_chosen(tmp_path: Path) -> None:
    module = conditional()
    model = moved(zoo.wrap(copy.deepcopy(module), lora=zoo.LoRA(2, targets=["to_q", "conv1"])))
    inputs = noisy()
    for number, (prefix, start) in enumerate(((None, "lora_unet_"), ("lora_prior_unet", "lora_prior_unet_"))):
        model.save_adapter(tmp_path / str(number), format="kohya", prefix=prefix)
        file = tmp_path / str(number) / "default.safetensors"
        assert all(key.startswith(start) for key in load_file(file))
        assert close(run(zoo.wrap(copy.deepcopy(module), lora=file), *inputs), run(model, *inputs))
    from diffusers import StableDiffusionPipeline

    state, alphas = StableDiffusionPipeline.lora_state_dict(tmp_path / "0", weight_name="default.safetensors")
    StableDiffusionPipeline.load_lora_into_unet(state, network_alphas=alphas, unet=module)
    assert close(run(module, *inputs), run(model, *inputs))
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["ss_network_module"] == "lycoris.kohya"


def test_a_text_encoder_has_the_names_that_other_tools_know(tmp_path: Path) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    sizes = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    module = CLIPTextModel(CLIPTextConfig(**sizes, num_attention_heads=2, bos_token_id=0, eos_token_id=1)).eval()
    ids = torch.arange(2, 6)[None]
    model = moved(zoo.wrap(copy.deepcopy(module), lora=zoo.LoRA(2, targets=["fc1", "q_proj"])))
    model.save_adapter(tmp_path, format="kohya")
    assert all(
        key.startswith("lora_te_text_model_encoder_layers_0_") for key in load_file(tmp_path / "default.safetensors")
    )
    assert close(run(zoo.wrap(module, lora=tmp_path), ids), run(model, ids))


def test_several_adapters_are_written_into_folders(tmp_path: Path) -> None:
    model = moved(
        zoo.wrap(net(), lora={"default": zoo.LoRA(2, targets=["fc"]), "night": zoo.LoRA(3, targets=["last"])})
    )
    for format in ("kohya", "diffusers"):
        model.save_adapter(tmp_path / format, format=format)
        again = zoo.wrap(net(), lora={"day": tmp_path / format, "night": tmp_path / format / "night"})
        x = torch.randn(1, 2, 2, 6)
        assert close(run(again, x), run(model, x))


# Refusals


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up = nn.Embedding(5, 4), nn.ConvTranspose2d(4, 4, 3)
        self.attention = nn.MultiheadAttention(4, 2)
        self.batch, self.raw = nn.BatchNorm1d(4), nn.Parameter(torch.randn(4, 4))
        self.a_b = nn.Linear(4, 4)
        self.a = nn.ModuleDict({"b": nn.Linear(4, 4)})
        self.line = nn.Conv1d(4, 4, 3)
        self.stack = nn.Parameter(torch.randn(2, 4, 4))


@pytest.mark.parametrize(
    ("format", "config", "match"),
    [
        ("kohya", zoo.LoRA(2, targets=["embed"]), r"embed\.weight: kohya's format.*weight of a Embedding"),
        ("kohya", zoo.LoRA(2, targets=["up"]), r"up\.weight: kohya's format.*ConvTranspose2d"),
        ("kohya", zoo.LoRA(2, targets=["attention.in_proj_weight"]), "in_proj_weight of a MultiheadAttention"),
        ("kohya", zoo.LoRA(2, targets=["raw"]), "raw: kohya's format"),
        ("kohya", zoo.LoRA(2, targets=["a.b"]), "a_b would have the same key"),
        ("kohya", zoo.LoRA(2, targets=["line"], bias="lora_only"), "line.bias: .* reads no bias beside them"),
        ("kohya", zoo.Full(targets=["batch"]), "batch.weight: .*BatchNorm1d, trained whole"),
        ("kohya", zoo.LoKr(8, targets=["line"]), "whole lokr_w2 on a one-dimensional"),
        ("diffusers", zoo.LoRA(2, targets=["up"]), r"up\.weight\.lora_A: diffusers' format .* no place"),
        ("diffusers", zoo.LoRA(2, targets=["a_b"], modules_to_save=["batch"]), "batch.*: diffusers' format"),
        ("diffusers", zoo.LoRA(2, targets=["a_b"], bias="lora_only"), r"a_b\.base_layer\.bias: diffusers' format"),
        ("diffusers", zoo.LoHa(2, targets=["a_b"]), "kind 'loha': diffusers' format has LoRA only"),
        ("diffusers", zoo.Full(targets=["batch"]), "kind 'full': diffusers' format has LoRA only"),
        ("safetensors", zoo.LoRA(2, targets=["line"]), "format: expected one of 'peft', 'diffusers', 'kohya', got"),
    ],
)
def test_what_a_format_cannot_say_is_refused_by_name(format: str, config: Any, match: str, tmp_path: Path) -> None:
    model = moved(zoo.wrap(Odd(), lora=config))
    with pytest.raises(AdapterError, match=match) as caught:
        model.save_adapter(tmp_path / "a", format=format)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(("format", "prefix"), [("peft", "unet"), ("kohya", "a.b"), ("diffusers", "")])
def test_a_prefix_that_cannot_be(format: str, prefix: str, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="prefix: expected letters"):
        zoo.wrap(net(), lora=zoo.LoRA(2, targets=["fc"])).save_adapter(tmp_path, format=format, prefix=prefix)


def test_a_folder_in_which_another_file_would_be_read_is_refused(tmp_path: Path) -> None:
    model = moved(zoo.wrap(net(), lora=zoo.LoRA(2, targets=["fc"])))
    model.save_adapter(tmp_path / "peft")
    with pytest.raises(OutputError, match=r"holds adapter_config\.json, which would be taken for this adapter"):
        model.save_adapter(tmp_path / "peft", format="diffusers")
    model.save_adapter(tmp_path / "kohya", format="kohya")
    with pytest.raises(OutputError, match=r"holds default\.safetensors"):
        model.save_adapter(tmp_path / "kohya", format="diffusers")
    model.save_adapter(tmp_path / "kohya", format="kohya")
    (tmp_path / "other").mkdir()
    save_file({"x": torch.ones(1)}, tmp_path / "other" / "x.safetensors")
    with pytest.raises(OutputError, match=r"holds x\.safetensors"):
        model.save_adapter(tmp_path / "other", format="kohya")
