"""Files of diffusers, LyCORIS, kohya and transformers: zoo's outputs equal those of the libraries."""

from __future__ import annotations

import copy
import importlib.util
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import zoo
from zoo.errors import AdapterError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")
DATA = Path(__file__).parent / "data"
FILE = "pytorch_lora_weights.safetensors"


@torch.no_grad()
def run(model: Any, *inputs: Any, **named: Any) -> Tensor:
    output = model(*inputs, **named)
    return output if isinstance(output, Tensor) else output[0]


def close(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> bool:
    return bool((one - other).abs().max() <= tolerance * max(1.0, float(other.abs().max())))


# LyCORIS


def maker() -> Any:
    spec = importlib.util.spec_from_file_location("zoo_make_lycoris", DATA / "make_lycoris.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKER = maker()
EXPECTED = load_file(DATA / "lycoris_expected.safetensors")


def small(name: str = "") -> nn.Module:
    module = MAKER.Small(conv1d=name not in MAKER.WITHOUT_CONV1D)
    state = {key.removeprefix("base."): value for key, value in EXPECTED.items() if key.startswith("base.")}
    module.load_state_dict(state, strict=False)
    return module.eval()


READ = [name for name in MAKER.ADAPTERS if name != "lokr_full_conv1d"]


@pytest.mark.parametrize("name", READ)
def test_what_lycoris_wrote_computes_what_lycoris_computed(name: str) -> None:
    module = small(name)
    plain = run(module, EXPECTED["x"])
    model = zoo.wrap(module, lora=DATA / f"lycoris_{name}.safetensors")
    assert close(run(model, EXPECTED["x"]), EXPECTED[name])
    assert not close(EXPECTED[name], plain, 1e-2)


@pytest.mark.parametrize("name", ["locon_dora", "loha_tucker", "lokr_factor"])
def test_what_lycoris_wrote_can_be_saved_again(name: str, tmp_path: Path) -> None:
    model = zoo.wrap(small(), lora=DATA / f"lycoris_{name}.safetensors")
    model.save_adapter(tmp_path / "a")
    again = zoo.wrap(small(), lora=tmp_path / "a")
    assert torch.equal(run(again, EXPECTED["x"]), run(model, EXPECTED["x"]))


def test_the_one_file_of_a_folder_and_over_four_bit(tmp_path: Path) -> None:
    (tmp_path / "mine.safetensors").write_bytes((DATA / "lycoris_locon.safetensors").read_bytes())
    one, other = small(), small()
    dense = zoo.wrap(one, bits=4).state_dict()
    model = zoo.wrap(other, bits=4, lora={"mine": tmp_path})
    again = small()
    again.load_state_dict(dense)
    assert close(run(model, EXPECTED["x"]), run(zoo.wrap(again, lora=tmp_path), EXPECTED["x"]))


def test_a_whole_kronecker_factor_on_a_one_dimensional_convolution_is_refused() -> None:
    with pytest.raises(AdapterError, match=r"conv1d: LoKr with a whole lokr_w2 on a one-dimensional"):
        zoo.wrap(small(), lora=DATA / "lycoris_lokr_full_conv1d.safetensors")


def kohya(tmp_path: Path, change: Callable[[dict[str, Tensor]], Any] | None = None, prefix: str = "lora_unet_") -> Path:
    tensors = load_file(DATA / "lycoris_locon.safetensors")
    tensors = {prefix + key.removeprefix("lycoris_"): tensor for key, tensor in tensors.items()}
    if change is not None:
        change(tensors)
    save_file(tensors, tmp_path / "kohya.safetensors")
    return tmp_path / "kohya.safetensors"


def test_kohyas_prefix(tmp_path: Path) -> None:
    assert close(run(zoo.wrap(small(), lora=kohya(tmp_path)), EXPECTED["x"]), EXPECTED["locon"])


def test_without_alpha_the_scale_is_one(tmp_path: Path) -> None:
    path = kohya(tmp_path, lambda t: [t.pop(key) for key in list(t) if key.endswith(".alpha")])
    model = zoo.wrap(small(), lora=path)
    assert {model.adapters["default"].scale_of(p) for p in ("conv_in", "out", "block.to_q")} == {1.0}  # type: ignore[attr-defined]


TWO = r"ambiguous, it may mean block_conv or block\.conv"


class Ambiguous(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block_conv = nn.Linear(3, 3)
        self.block = nn.ModuleDict({"conv": nn.Linear(3, 3)})


def test_a_path_with_underscores_that_two_layers_have_is_refused(tmp_path: Path) -> None:
    save_file(
        {f"lycoris_block_conv.lora_{way}.weight": torch.randn(3, 3) for way in ("up", "down")},
        tmp_path / "a.safetensors",
    )
    with pytest.raises(AdapterError, match=TWO):
        zoo.wrap(Ambiguous(), lora=tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.update({"lora_te_x.lora_up.weight": torch.zeros(2, 2)}), "matches no layer"),
        (lambda t: t.update({"lora_unet_out.alpha": torch.zeros(2)}), "expected one number as its alpha"),
        (lambda t: t.update({"lora_unet_out.lora_down.weight": torch.zeros(4)}), "expected a matrix"),
        (lambda t: t.update({"lora_unet_out.lora_down.weight": torch.zeros(4, 9)}), r"out\.weight.*shapes.*expected"),
        (lambda t: t.update({"lora_unet_out.lora_mid.weight": torch.zeros(4, 3)}), "lora_mid has shape"),
        (lambda t: t.update({"lora_unet_out.dora_scale": torch.ones(6, 1)}), "other layers have none"),
        (lambda t: t.update({"lora_unet_out.w_norm": torch.ones(6)}), "unexpected 'w_norm'"),
        (lambda t: t.update({"lora_unet_out.hada_w1_a": torch.ones(6, 1)}), "expected the factors of a LoCon"),
        (lambda t: t.pop("lora_unet_out.lora_down.weight"), "its lora_down.weight is missing"),
        (lambda t: t.update({"lycoris_out.alpha": torch.tensor(1.0)}), "written twice"),
        (lambda t: t.update({"text": torch.tensor(1.0)}), "unexpected key 'text'"),
        (lambda t: t.update({"lora_unet_out.lora_up.weight": torch.full((6, 4), torch.nan)}), "finite"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(change: Callable[..., Any], match: str, tmp_path: Path) -> None:
    model = zoo.wrap(small())
    with pytest.raises(AdapterError, match=match) as caught:
        model.add_adapter("a", kohya(tmp_path, change))
    assert "\n" not in str(caught.value)
    assert not model.adapters


# diffusers


def vae() -> nn.Module:
    from diffusers import AutoencoderKL

    sizes = {"in_channels": 1, "out_channels": 1, "latent_channels": 2, "norm_num_groups": 4, "sample_size": 8}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(**sizes, **blocks, block_out_channels=(8, 16)).eval()


def conditional() -> nn.Module:
    from diffusers import UNet2DConditionModel

    sizes = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "norm_num_groups": 4}
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    more = {"block_out_channels": (8,), "cross_attention_dim": 8, "attention_head_dim": 4}
    return UNet2DConditionModel(**sizes, **blocks, **more).eval()


def noisy() -> tuple[Any, ...]:
    return torch.randn(2, 1, 8, 8), torch.tensor([3, 700]), torch.randn(2, 4, 8)


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


# transformers


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 40}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval()


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


# Which file


def test_the_tensors_of_peft_without_its_configuration_are_refused(tmp_path: Path) -> None:
    model = zoo.wrap(gpt2(), lora=zoo.LoRA(rank=2, targets=["c_attn"]))
    model.save_adapter(tmp_path / "a")
    other = tmp_path / "alone.safetensors"
    other.write_bytes((tmp_path / "a" / "adapter_model.safetensors").read_bytes())
    with pytest.raises(AdapterError, match="without PEFT's configuration"):
        zoo.wrap(gpt2(), lora=other)
    (tmp_path / "a" / "adapter_config.json").unlink()
    (tmp_path / "a" / "zoo.json").unlink()
    with pytest.raises(AdapterError, match=r"no adapter_config\.json"):
        zoo.wrap(gpt2(), lora=tmp_path / "a")


def test_a_file_beside_its_configuration_stands_for_the_folder(tmp_path: Path) -> None:
    model = zoo.wrap(gpt2(), lora=zoo.LoRA(rank=2, targets=["c_attn"]))
    model.save_adapter(tmp_path / "a")
    again = zoo.wrap(model.unload(), lora=tmp_path / "a" / "adapter_model.safetensors")
    assert again.adapters["default"].targets == ("c_attn",)


def test_files_that_are_no_adapter_say_what_they_are(tmp_path: Path) -> None:
    model = zoo.wrap(small())
    (tmp_path / "a.pt").write_bytes(b"x")
    with pytest.raises(AdapterError, match="zoo reads no pickles"):
        model.add_adapter("a", tmp_path / "a.pt")
    with pytest.raises(AdapterError, match=r"a\.pt: a pickle"):
        model.add_adapter("a", tmp_path)
    for name in ("one", "two"):
        save_file({"x": torch.zeros(2)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(AdapterError, match=r"2 \.safetensors files"):
        model.add_adapter("a", tmp_path)
    with pytest.raises(AdapterError, match="no adapter that zoo knows, its keys are 'x'"):
        model.add_adapter("a", tmp_path / "one.safetensors")


def test_several_adapters_in_one_folder(tmp_path: Path) -> None:
    model = zoo.wrap(small(), lora={"default": 2, "night": 3})
    model.save_adapter(tmp_path)
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("adapter_config.json"))
    assert names == ["adapter_config.json", "night/adapter_config.json"]
    again = zoo.wrap(small(), lora={"day": tmp_path, "night": tmp_path / "night"})
    assert [config.rank for config in again.adapters.values()] == [2, 3]  # type: ignore[attr-defined]
    (tmp_path / "adapter_config.json").unlink()
    (tmp_path / "adapter_model.safetensors").unlink()
    (tmp_path / "zoo.json").unlink()
    with pytest.raises(AdapterError, match="holds several in folders: give one of night"):
        zoo.wrap(small(), lora=tmp_path)
    config = json.loads((tmp_path / "night" / "adapter_config.json").read_text())
    assert config["r"] == 3
