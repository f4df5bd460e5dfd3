"""Keys and numbers as real tools write them: read to the same values, the rest named or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import zoo
from zoo.errors import AdapterError
from zoo.formats.spellings import peft_key, widened


class Net(nn.Module):
    """A layer of each kind that files of these tools change, two of them with the same last name."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q = nn.Linear(6, 6)
        self.block = nn.ModuleDict({"to_q": nn.Linear(6, 6), "norm": nn.LayerNorm(6), "to_out": nn.ModuleList()})
        self.block["to_out"].append(nn.Linear(6, 6))
        self.norm = nn.LayerNorm(6)
        self.proj = nn.Conv2d(6, 6, 1)
        self.conv = nn.Conv2d(6, 4, (3, 2), padding=1)
        self.line, self.cube = nn.Conv1d(4, 4, 1), nn.Conv3d(1, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.to_q(x))
        x = self.block["norm"](self.block["to_out"][0](self.block["to_q"](x)))  # (n, 5, 5, 6)
        x = self.conv(self.proj(x.permute(0, 3, 1, 2))).tanh()
        return self.cube(self.line(x.flatten(2)).unsqueeze(1).unsqueeze(-1))


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def truth(x: Tensor, **changes: Tensor) -> Tensor:
    """Return what the module computes in float64 with these differences of its parameters."""
    module = net().double()
    with torch.no_grad():
        for name, change in changes.items():
            parameter = module.get_parameter(name.replace("__", "."))
            parameter.add_(change.double().reshape(parameter.shape))
    return module(x.double())


def read(tensors: dict[str, Tensor], folder: Path, module: nn.Module | None = None, **options: Any) -> zoo.Model:
    save_file({name: one.clone().contiguous() for name, one in tensors.items()}, folder / "a.safetensors")
    return zoo.wrap(module or net(), lora=folder / "a.safetensors", **options)


def agrees(model: Any, x: Tensor, expected: Tensor) -> bool:
    return bool((model(x) - expected).norm() <= 2e-6 * expected.norm())


A, B = torch.randn(2, 6), torch.randn(6, 2)
X = torch.randn(2, 5, 5, 6)


def factors(stem: str, down: str = "lora_down.weight", up: str = "lora_up.weight", dot: str = ".") -> dict[str, Tensor]:
    return {f"{stem}{dot}{down}": A, f"{stem}{dot}{up}": B}


# Spellings of an adapter of block.to_q of scale 1.
SPELLINGS: dict[str, dict[str, Tensor]] = {
    "kohya": factors("lora_unet_block_to_q"),
    "LyCORIS": factors("lycoris_block_to_q"),
    "Kandinsky prior": factors("lora_prior_unet_block_to_q"),
    "underscores and no prefix": factors("block_to_q"),
    "a prefix with a dot": factors("lora_unet.block.to_q"),
    "dots after kohya's prefix": factors("lora_unet_block.to_q"),
    "OneTrainer": factors("transformer.block.to_q"),
    "ComfyUI": factors("diffusion_model.block.to_q"),
    "the checkpoint's name": factors("model.diffusion_model.block.to_q", "lora_A.weight", "lora_B.weight"),
    "diffusers": factors("unet.block.to_q", "lora_A.weight", "lora_B.weight"),
    "diffusers of 2023": factors("unet.block.to_q", "lora.down.weight", "lora.up.weight"),
    "a linear layer of diffusers'": factors(
        "block.to_q", "lora_linear_layer.down.weight", "lora_linear_layer.up.weight"
    ),
    "attention processors": factors("unet.block.processor.to_q", "lora.down.weight", "lora.up.weight", "_"),
    "no .weight": factors("block.to_q", "lora_A", "lora_B"),
    "PEFT's name of an adapter": factors("unet.block.to_q", "lora_A.default.weight", "lora_B.default.weight"),
    "a compiled model": factors("lora_unet__orig_mod_block_to_q"),
    "a compiled part": factors("unet.block._orig_mod.to_q", "lora_A.weight", "lora_B.weight"),
    "a part of a pipeline in no table": factors("my_model.block.to_q", "lora_A.weight", "lora_B.weight"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_of_a_low_rank_adapter(spelling: str, tmp_path: Path) -> None:
    tensors = SPELLINGS[spelling]
    assert agrees(read(tensors, tmp_path), X, truth(X, block__to_q__weight=B @ A))
    path = next(iter(tensors)).partition("lora_down")[0].partition("lora_A")[0].partition("lora")[0]
    if path and "processor" not in path and "lora" not in path:
        scaled = {**tensors, f"{path}alpha": torch.tensor(5, dtype=torch.int32)}
        assert agrees(read(scaled, tmp_path), X, truth(X, block__to_q__weight=2.5 * B @ A))


def test_the_last_projection_of_an_attention_processor(tmp_path: Path) -> None:
    tensors = factors("unet.block.processor.to_out", "lora.down.weight", "lora.up.weight", "_")
    assert agrees(read(tensors, tmp_path), X, truth(X, block__to_out__0__weight=B @ A))


FLOATS = (torch.float64, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2)


@pytest.mark.parametrize("dtype", [*FLOATS, torch.int64, torch.int32, torch.uint8, torch.uint16, torch.uint64])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_alpha_is_a_number_of_any_type(dtype: torch.dtype, shape: tuple[int, ...], tmp_path: Path) -> None:
    tensors = {**factors("lora_unet_to_q"), "lora_unet_to_q.alpha": torch.full(shape, 4).to(dtype)}
    assert agrees(read(tensors, tmp_path), X, truth(X, to_q__weight=2 * B @ A))


@pytest.mark.parametrize("alpha", [torch.tensor([1.0, 1.0]), torch.tensor(True), torch.tensor(float("nan"))])
def test_alpha_that_is_no_number(alpha: Tensor, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"to_q: expected one number as its alpha|alpha: expected a number"):
        read({**factors("lora_unet_to_q"), "lora_unet_to_q.alpha": alpha}, tmp_path)


def test_alpha_of_zero_stands_for_the_rank(tmp_path: Path) -> None:
    model = read({**factors("lora_unet_to_q"), "lora_unet_to_q.alpha": torch.tensor(0)}, tmp_path)
    assert agrees(model, X, truth(X, to_q__weight=B @ A))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16, torch.float64])
def test_factors_of_any_float_type(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {name: one.to(dtype) for name, one in factors("lora_unet_to_q").items()}
    change = B.to(dtype).double() @ A.to(dtype).double()
    assert agrees(read(tensors, tmp_path), X, truth(X, to_q__weight=change))


def pair(stem: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    return {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}


KERNEL = torch.randn(2, 6, 3, 2)
SHAPES: dict[str, tuple[dict[str, Tensor], dict[str, Tensor]]] = {
    "linear, factors 4-D": (
        pair("lora_unet_to_q", A[..., None, None], B[..., None, None]),
        {"to_q__weight": B @ A},
    ),
    "linear, 3-D": (pair("lora_unet_to_q", A[..., None], B[..., None]), {"to_q__weight": B @ A}),
    "1x1 convolution, 2-D": (pair("unet.proj", A, B), {"proj__weight": B @ A}),
    "1x1 convolution, one of each": (pair("lora_unet_proj", A[..., None, None], B), {"proj__weight": B @ A}),
    "convolution, flat": (
        pair("lora_unet_conv", KERNEL.flatten(1), B[:4]),
        {"conv__weight": B[:4] @ KERNEL.flatten(1)},
    ),
    "convolution, flat B": (pair("lora_unet_conv", KERNEL, B[:4]), {"conv__weight": B[:4] @ KERNEL.flatten(1)}),
    "one dimension": (pair("lora_unet_line", A[:, :4], B[:4]), {"line__weight": B[:4] @ A[:, :4]}),
    "three dimensions": (pair("lora_unet_cube", A[:, :1], B[:2]), {"cube__weight": B[:2] @ A[:, :1]}),
    "Tucker, flat factors": (
        {**pair("lora_unet_conv", A, B[:4]), "lora_unet_conv.lora_mid.weight": KERNEL[:, :2]},
        {"conv__weight": torch.einsum("om,mn...,ni->oi...", B[:4], KERNEL[:, :2], A)},
    ),
}


@pytest.mark.parametrize("case", SHAPES)
def test_factors_of_other_dimensions_than_the_weight(case: str, tmp_path: Path) -> None:
    tensors, changes = SHAPES[case]
    assert agrees(read(tensors, tmp_path), X, truth(X, **changes))


HADA = {
    name: torch.randn(6, 2) if name.endswith("a") else torch.randn(2, 6) for name in ("w1_a", "w1_b", "w2_a", "w2_b")
}
PRODUCT = (HADA["w1_a"] @ HADA["w1_b"]) * (HADA["w2_a"] @ HADA["w2_b"])


def test_products_of_other_dimensions_than_the_weight(tmp_path: Path) -> None:
    loha = {f"lycoris_to_q.hada_{name}": one[..., None, None] for name, one in HADA.items()}
    loha |= {f"lycoris_proj.hada_{name}": one for name, one in HADA.items()}
    assert agrees(read(loha, tmp_path), X, truth(X, to_q__weight=PRODUCT, proj__weight=PRODUCT))
    w1, w2 = torch.randn(2, 2), torch.randn(3, 3)
    lokr = {"lycoris_proj.lokr_w1": w1[..., None, None], "lycoris_proj.lokr_w2": w2}
    lokr |= {"lycoris_to_q.lokr_w1": w1, "lycoris_to_q.lokr_w2": w2[..., None, None]}
    both = torch.kron(w1, w2)
    assert agrees(read(lokr, tmp_path), X, truth(X, to_q__weight=both, proj__weight=both))


def test_a_kernel_that_ends_in_one_keeps_its_dimensions(tmp_path: Path) -> None:
    w1, w2, module = torch.randn(2, 2), torch.randn(3, 3, 3, 1), nn.Sequential(nn.Conv2d(6, 6, (3, 1)))
    base = module[0].weight.detach().clone()
    model = read({"lycoris_0.lokr_w1": w1, "lycoris_0.lokr_w2": w2}, tmp_path, module)
    torch.testing.assert_close(model.state_dict()["0.weight"], base + torch.kron(w1[..., None, None], w2))
    model.remove_adapter("default")
    down, up = torch.randn(2, 6, 3, 1), torch.randn(6, 2, 1, 1)
    save_file(pair("lycoris_0", down, up), tmp_path / "a.safetensors")
    model.add_adapter("other", tmp_path / "a.safetensors")
    change = (up.flatten(1) @ down.flatten(1)).view_as(base)
    torch.testing.assert_close(model.state_dict()["0.weight"], base + change)


# Differences

W, BIAS = torch.randn(6, 6), torch.randn(6)
NORM = {"lycoris_norm.w_norm": W[0], "lycoris_norm.b_norm": BIAS}
DIFFERENCES: dict[str, tuple[dict[str, Tensor], dict[str, Tensor]]] = {
    "full": ({"lycoris_to_q.diff": W, "lycoris_to_q.diff_b": BIAS}, {"to_q__weight": W, "to_q__bias": BIAS}),
    "full of a convolution": ({"lycoris_proj.diff": W}, {"proj__weight": W}),
    "norms alone": (NORM, {"norm__weight": W[0], "norm__bias": BIAS}),
    "only a norm's bias": ({"unet.block.norm.b_norm": BIAS}, {"block__norm__bias": BIAS}),
    "a LoCon, one of two norms": (
        {**factors("lycoris_to_q"), **NORM},
        {"to_q__weight": B @ A, "norm__weight": W[0], "norm__bias": BIAS},
    ),
    "a bias beside the factors": (
        {**factors("diffusion_model.to_q"), "diffusion_model.to_q.diff_b": BIAS},
        {"to_q__weight": B @ A, "to_q__bias": BIAS},
    ),
    "a LoHa and half a norm": (
        {**{f"lycoris_to_q.hada_{name}": one for name, one in HADA.items()}, "lycoris_norm.w_norm": W[0]},
        {"to_q__weight": PRODUCT, "norm__weight": W[0]},
    ),
}


@pytest.mark.parametrize("case", DIFFERENCES)
def test_differences_from_the_base(case: str, tmp_path: Path) -> None:
    tensors, changes = DIFFERENCES[case]
    model = read(tensors, tmp_path)
    assert agrees(model, X, truth(X, **changes))
    model.save_adapter(tmp_path / "again")
    again = zoo.wrap(net(), lora=tmp_path / "again")
    assert torch.equal(again(X), model(X))
    model.deactivate()
    assert torch.equal(model(X), net()(X))


def test_a_difference_over_a_packed_base(tmp_path: Path) -> None:
    dense = net()
    dense.load_state_dict(zoo.wrap(net(), bits=4).state_dict())
    with torch.no_grad():
        dense.to_q.weight.add_(W)
    model = read({"lycoris_to_q.diff": W}, tmp_path, bits=4)
    torch.testing.assert_close(model(X), dense(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        (
            {"lycoris_to_q.diff": torch.randn(5, 6)},
            r"to_q: its diff has shape \(5, 6\).*expected floats of shape \(6, 6\)",
        ),
        ({"lycoris_to_q.diff": torch.ones(6, 6, dtype=torch.int8)}, "expected floats"),
        ({"lycoris_to_q.diff": W * float("nan")}, "finite"),
        ({"lycoris_to_q.diff": W, "lycoris_to_q.w_norm": BIAS}, "unexpected 'w_norm', the file has a difference"),
        ({**factors("lycoris_to_q"), "lycoris_to_q.diff": W}, "unexpected 'diff'"),
        ({**factors("lycoris_to_q"), "lycoris_to_q.oft_blocks": W}, "unexpected key 'lycoris_to_q.oft_blocks'"),
        ({**factors("lycoris_to_q", up="lora_up.bias")}, "unexpected key 'lycoris_to_q.lora_up.bias'"),
        ({**factors("unet.to_q"), "unet.to_q.lora_B.bias": BIAS}, r"unexpected key 'unet\.to_q\.lora_B\.bias'"),
    ],
)
def test_parts_that_do_not_fit_are_named(tensors: dict[str, Tensor], match: str, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=match):
        read(tensors, tmp_path)


def test_a_bias_that_the_layer_has_not(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="0: the file has diff_b, and the layer has no bias"):
        read({"lycoris_0.diff_b": BIAS}, tmp_path, nn.Sequential(nn.Linear(6, 6, bias=False)))


# PEFT's keys


def test_pefts_keys_with_what_others_add() -> None:
    right = "base_model.model.a.b.lora_A.weight"
    for key in (
        right,
        "base_model.model._orig_mod.a.b.lora_A.weight",
        "base_model.model.a._fsdp_wrapped_module.b.lora_A.weight",
        "module.base_model.model.a.b.lora_A.weight",
        "_orig_mod.module.base_model.model.a.b.lora_A.default.weight",
    ):
        assert peft_key(key) == right
    for key in ("base_model.model.a.lora_embedding_A", "base_model.model.a.lora_B.bias", "base_model.model.a.weight"):
        assert peft_key(key) == key


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_every_eight_bit_float_is_widened_exactly(dtype: torch.dtype) -> None:
    every = torch.arange(256, dtype=torch.uint8).view(dtype)
    torch.testing.assert_close(widened(every).float(), every.float(), rtol=0, atol=0, equal_nan=True)


def test_pefts_folder_of_a_compiled_model_in_eight_bit(tmp_path: Path) -> None:
    model = zoo.wrap(net(), lora=zoo.LoRA(2, targets=["to_q"], rank_pattern={"^to_q": 2}))
    model.save_adapter(tmp_path)
    (tmp_path / "zoo.json").unlink()
    made = {"to_q": (A, B), "block.to_q": (A + 1, B)}
    tensors = {}
    for path, factors_of in made.items():
        for way, one in zip("AB", factors_of, strict=True):
            tensors[f"base_model.model._orig_mod.{path}.lora_{way}.default.weight"] = one.to(torch.float8_e4m3fn)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    config |= {"target_modules": ["_orig_mod.to_q", "block.to_q"], "lora_alpha": 2, "rank_pattern": {}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    change = [two.to(torch.float8_e4m3fn).double() @ one.to(torch.float8_e4m3fn).double() for one, two in made.values()]
    expected = truth(X, to_q__weight=change[0], block__to_q__weight=change[1])
    assert agrees(zoo.wrap(net(), lora=tmp_path), X, expected)
