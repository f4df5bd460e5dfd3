"""Files of diffusers and transformers: zoo's outputs equal those of the libraries."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version
from safetensors.torch import load_file, save_file
from torch import nn

import zoo
from zoo.errors import AdapterError

from .helpers import FILE, close, conditional, gpt2, noisy, run, vae

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")


def theirs(module: nn.Module, **config: Any) -> nn.Module:
    """Return `module` with an adapter that its library has added, with random factors."""
    from peft import LoraConfig

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.add_adapter(LoraConfig(**{"r": 3, "lora_alpha": 5, **config}))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return module


VARIANTS: dict[str, dict[str, Any]] = {
    "linear": {"target_modules": ["to_q", "to_v"]},
    "convolutions": {"target_modules": ["conv1", "quant_conv"], "rank_pattern": {"quant_conv": 2}},
    "dora": {"target_modules": ["to_q", "conv2"], "use_dora": True},
    "rslora": {"target_modules": ["to_k"], "use_rslora": True, "alpha_pattern": {"to_k": 2}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_save_lora_adapter_of_diffusers_wrote(variant: str, tmp_path: Path) -> None:
    module = vae()
    model = zoo.wrap(copy.deepcopy(module))
    made = theirs(module, **VARIANTS[variant])
    made.save_lora_adapter(tmp_path)
    x = torch.randn(2, 1, 8, 8)
    plain = run(model, x)
    model.add_adapter("theirs", tmp_path)
    assert close(run(model, x), run(made, x))
    assert not close(run(made, x), plain, 1e-3)


@pytest.mark.parametrize("form", ["new", "with alpha", "lora.down", "processor", "metadata"])
def test_what_a_pipeline_of_diffusers_wrote(form: str, tmp_path: Path) -> None:
    """Keys with the component's name; `lora_A`, the older `lora.down` and attention processors' names."""
    from diffusers import StableDiffusionPipeline
    from peft.utils import get_peft_model_state_dict

    module = conditional()
    base = copy.deepcopy(module)
    model = zoo.wrap(copy.deepcopy(module))
    made = theirs(module, target_modules=["to_q", "to_k", "to_v", "to_out.0"], lora_alpha=3)
    layers = get_peft_model_state_dict(made)
    metadata = {"unet_lora_adapter_metadata": made.peft_config["default"].to_dict()} if form == "metadata" else {}
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=layers, **metadata)
    tensors = load_file(tmp_path / FILE)
    assert all(key.startswith("unet.") for key in tensors)
    if form in ("lora.down", "processor"):
        tensors = {_older(key, form): tensor for key, tensor in tensors.items()}
        save_file(tensors, tmp_path / FILE)
    elif form == "with alpha":
        alphas = {key.replace("lora_A.weight", "alpha"): torch.tensor(6.0) for key in tensors if "lora_A" in key}
        save_file(tensors | alphas, tmp_path / FILE)
    inputs = noisy()
    plain = run(model, *inputs)
    model.add_adapter("theirs", tmp_path)
    expected = run(made, *inputs)
    if form == "with alpha":  # diffusers scales by alpha / rank = 2
        for layer in made.modules():
            if hasattr(layer, "scaling"):
                layer.scaling["default"] *= 2
        expected = run(made, *inputs)
    elif form != "metadata":  # and diffusers itself reads the file so
        base.load_lora_adapter(load_file(tmp_path / FILE), prefix="unet")
        assert close(run(base, *inputs), expected)
    assert close(run(model, *inputs), expected)
    assert not close(expected, plain, 1e-3)


def _older(key: str, form: str) -> str:
    if form == "lora.down":
        return key.replace(".lora_A.", ".lora.down.").replace(".lora_B.", ".lora.up.")
    for name in ("q", "k", "v", "out"):
        old = ".to_out.0" if name == "out" else f".to_{name}"
        key = key.replace(f"{old}.lora_A.", f".processor.to_{name}_lora.down.")
        key = key.replace(f"{old}.lora_B.", f".processor.to_{name}_lora.up.")
    return key


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda t: t.update({"text_encoder.x.lora_A.weight": torch.zeros(2, 2)}),
            "several components, unet and text_enc",
        ),
        (lambda t: t.update({"unet.nowhere.lora_A.weight": torch.zeros(2, 2)}), "matches no layer"),
        (lambda t: t.update({"unet.conv_in.something": torch.zeros(2)}), "unexpected key 'unet.conv_in.something'"),
        (lambda t: t.update({"unet.conv_in.alpha": torch.zeros(2)}), "expected one number"),
        (lambda t: t.pop(next(key for key in t if "lora_A" in key)), "and A is missing"),
    ],
)
def test_a_file_of_diffusers_that_does_not_fit(change: Callable[..., Any], match: str, tmp_path: Path) -> None:
    model = zoo.wrap(conditional())
    paths = [name for name, _ in model.module.named_modules() if name.endswith(("to_q", "to_v"))]
    tensors = {f"unet.{p}.lora_A.weight": torch.randn(2, 8) for p in paths}
    tensors |= {f"unet.{p}.lora_B.weight": torch.randn(8, 2) for p in paths}
    change(tensors)
    save_file(tensors, tmp_path / FILE)
    with pytest.raises(AdapterError, match=match) as caught:
        model.add_adapter("a", tmp_path)
    assert "\n" not in str(caught.value)
    assert not model.adapters


@pytest.fixture
def any_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers may require a PEFT that is not released yet; with the released one it writes the same files."""
    import peft
    from transformers.integrations import peft as integration

    asked, there = Version(integration.MIN_PEFT_VERSION), Version(peft.__version__)
    monkeypatch.setattr(integration, "MIN_PEFT_VERSION", str(min(asked, there)))


@pytest.mark.usefixtures("any_peft")
@pytest.mark.parametrize("prefixed", [True, False])
def test_what_save_pretrained_of_transformers_wrote(prefixed: bool, tmp_path: Path) -> None:
    module = gpt2()
    model = zoo.wrap(copy.deepcopy(module))
    made = theirs(module, target_modules=["c_attn"], fan_in_fan_out=True)
    made.save_pretrained(tmp_path, save_peft_format=prefixed)
    keys = load_file(tmp_path / "adapter_model.safetensors")
    assert all(key.startswith("base_model.model.") is prefixed for key in keys)
    ids = torch.randint(0, 40, (2, 7))
    plain = run(model, ids)
    model.add_adapter("theirs", tmp_path)
    assert close(run(model, ids), run(made, ids))
    assert not close(run(made, ids), plain, 1e-3)
