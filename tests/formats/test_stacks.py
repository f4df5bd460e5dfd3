"""Adapters of stacks of matrices (fused experts): as many values as PEFT's, in PEFT's form, both ways."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

import zoo

MOE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "intermediate_size": 24,
    "eos_token_id": 2,
}


class _Experts(nn.Module):
    def __init__(self, inputs_first: bool) -> None:
        super().__init__()
        self.is_transposed = inputs_first
        shape = (6, 8, 10) if inputs_first else (6, 10, 8)
        self.w = nn.Parameter(torch.randn(shape))
        self.v = nn.Parameter(torch.randn(6, 8, 10) if not inputs_first else torch.randn(6, 10, 8))

    def forward(self, x: Tensor) -> Tensor:
        first, second = (self.w, self.v) if self.is_transposed else (self.w.mT, self.v.mT)
        return torch.stack([torch.tanh(x @ one) @ other for one, other in zip(first, second, strict=True)], 1)


class _Net(nn.Module):
    def __init__(self, inputs_first: bool = False) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.experts = _Experts(inputs_first)

    def forward(self, x: Tensor) -> Tensor:
        return self.experts(self.fc(x))


def _random(parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        nn.init.normal_(parameter, std=0.4)


def _trained(module: nn.Module, lora: object, **options: object) -> zoo.Model:
    model = zoo.wrap(module, lora=lora, **options)  # type: ignore[arg-type]
    _random([parameter for _, parameter in model.trainable_parameters()])
    return model


def _rel(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().norm() / expected.detach().norm())


# PEFT applies patterns to parameters too, and all the same warns that they are not used.
@pytest.mark.filterwarnings("ignore:The following rank_pattern keys")
@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("inputs_first", [False, True])
def test_both_ways_with_peft(inputs_first: bool, bits: int | None, tmp_path: Path) -> None:
    net, x = _Net(inputs_first).eval(), torch.randn(5, 8)
    model = _trained(copy.deepcopy(net), zoo.LoRA(3, rank_pattern={"experts.v": 2}), bits=bits)
    base = zoo.wrap(copy.deepcopy(net), bits=bits).unload()
    factors = 6 * 3 * 18 + 6 * 2 * 18 + 3 * 16  # a pair for every expert
    assert model.footprint().trainable == factors
    model.save_adapter(tmp_path / "ours")
    fields = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    assert fields["peft_type"] == "LORA"
    assert fields["target_parameters"] == ["experts.v", "experts.w"]
    theirs = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "ours").eval()
    assert _rel(theirs(x), model(x)) < 1e-5
    assert torch.equal(zoo.wrap(copy.deepcopy(net), bits=bits, lora=tmp_path / "ours")(x), model(x))

    config = LoraConfig(r=3, lora_alpha=5, target_modules=["fc"], target_parameters=["experts.w", "experts.v"])
    theirs = get_peft_model(copy.deepcopy(base), config).eval()
    _random([parameter for parameter in theirs.parameters() if parameter.requires_grad])
    theirs.save_pretrained(tmp_path / "theirs")
    assert _rel(zoo.wrap(copy.deepcopy(net), bits=bits, lora=tmp_path / "theirs")(x), theirs(x)) < 1e-5


@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
@pytest.mark.parametrize(
    ("config", "more"),
    [
        (transformers.MixtralConfig, {"num_local_experts": 4}),
        (transformers.GptOssConfig, {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16}),
        (transformers.OlmoeConfig, {"num_experts": 8, "num_experts_per_tok": 2, "pad_token_id": 1}),
    ],
    ids=["mixtral", "gpt-oss", "olmoe"],
)
def test_fused_experts_of_transformers(config: type, more: dict[str, int], implementation: str, tmp_path: Path) -> None:
    net = transformers.AutoModelForCausalLM.from_config(config(**MOE, **more)).eval()
    net.set_experts_implementation(implementation)
    targets = ["q_proj", "gate_up_proj", "down_proj"]
    model, ids = _trained(copy.deepcopy(net), zoo.LoRA(2, targets=targets)), torch.randint(0, 64, (2, 9))
    model.save_adapter(tmp_path)
    logits = model(ids).logits
    assert _rel(PeftModel.from_pretrained(copy.deepcopy(net), tmp_path).eval()(ids).logits, logits) < 1e-5
    small = zoo.wrap(copy.deepcopy(net), bits=4, lora=tmp_path)
    dense = copy.deepcopy(net)
    dense.load_state_dict(small.state_dict())
    assert _rel(small(ids).logits, dense(ids).logits) < 1e-5
    if implementation == "batched_mm" and transformers.__version__.startswith("5.9."):
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):  # its clamp_ of the router's choice
            net(ids).logits.sum().backward()
        pytest.skip(f"transformers {transformers.__version__} cannot train experts with batched_mm, plain ones neither")
    small(ids).logits.sum().backward()
    assert all(parameter.grad is not None for _, parameter in small.trainable_parameters())


KINDS = {
    "dora": zoo.LoRA(2, targets=["w", "fc"], dora=True),
    "pissa": zoo.LoRA(2, targets=["w", "fc"], init="pissa"),
    "olora": zoo.LoRA(2, targets=["w", "fc"], init="olora"),
    "orthogonal": zoo.LoRA(2, targets=["w", "fc"], init="orthogonal"),
    "rslora": zoo.LoRA(2, targets=["w", "fc"], rslora=True),
    "dropout": zoo.LoRA(2, targets=["w", "fc"], dropout=0.5),
    "loha": zoo.LoHa(2, targets=["w", "fc"]),
    "lokr": zoo.LoKr(2, targets=["w", "fc"]),
}


@pytest.mark.parametrize("inputs_first", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_start_from_the_base_and_come_back(kind: str, inputs_first: bool, tmp_path: Path) -> None:
    net, x = _Net(inputs_first).eval(), torch.randn(5, 8)
    base = net(x)
    model = zoo.wrap(copy.deepcopy(net), lora=KINDS[kind], seed=1)
    assert _rel(model(x), base) < 1e-5
    _random([parameter for _, parameter in model.trainable_parameters()])
    y = model(x)
    assert _rel(y, base) > 1e-3
    model.save_adapter(tmp_path)
    assert _rel(zoo.wrap(copy.deepcopy(net), lora=tmp_path)(x), y) < 1e-6
    model.train()
    model(x).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for _, parameter in model.trainable_parameters())  # type: ignore[union-attr]
    model.eval().merge()
    assert _rel(model(x), y) < 1e-5


def test_pissa_takes_the_largest_directions_of_each_matrix() -> None:
    net = _Experts(inputs_first=False)
    model = zoo.wrap(net, lora=zoo.LoRA(2, targets=["w"], init="pissa"))
    update = model.module.get_parameter("w")._zoo_store.updates["default"]
    U, S, Vh = torch.linalg.svd(model.state_dict()["w"].double(), full_matrices=False)
    largest = (U[..., :2] * S[..., None, :2]) @ Vh[..., :2, :]
    torch.testing.assert_close(update.scale * (update.B @ update.A).double(), largest, rtol=1e-4, atol=1e-4)


def test_combining_and_swapping(tmp_path: Path) -> None:
    net, x = _Net().eval(), torch.randn(5, 8)
    model = _trained(copy.deepcopy(net), {"a": zoo.LoRA(2, targets=["w", "fc"]), "b": zoo.LoRA(3, targets=["w"])})
    model.activate("a", "b", weights=(0.5, -2.0))
    both = model(x)
    report = model.combine_adapters("c", {"a": 0.5, "b": -2.0})
    assert report.error < 1e-6
    model.activate("c")
    assert _rel(model(x), both) < 1e-5
    assert model.combine_adapters("d", {"a": 0.5, "b": -2.0}, "svd", rank=5).error < 1e-5
    assert 0 < model.combine_adapters("e", {"a": 0.5, "b": -2.0}, "svd", rank=1).error < 1
    model.combine_adapters("f", {"a": 1.0, "b": 1.0}, "dare_ties_svd", rank=2, density=0.5, seed=0)
    other = _trained(copy.deepcopy(net), zoo.LoRA(1, targets=["w", "fc"]))
    other.save_adapter(tmp_path / "other")
    model.activate("a")
    model.swap_adapter("a", tmp_path / "other")
    assert _rel(model(x), other(x)) < 1e-6
    model.save_adapter(tmp_path / "swapped", "a")
    assert _rel(zoo.wrap(copy.deepcopy(net), lora=tmp_path / "swapped")(x), other(x)) < 1e-6


def test_a_parameter_of_the_top_module_is_not_in_peft_form(tmp_path: Path) -> None:
    net, x = _Experts(inputs_first=False).eval(), torch.randn(5, 8)  # PEFT targets no parameter there
    model = _trained(copy.deepcopy(net), 2)
    model.save_adapter(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "ZOO_LORA"
    assert torch.equal(zoo.wrap(copy.deepcopy(net), lora=tmp_path)(x), model(x))


@pytest.mark.parametrize(
    ("shape", "stacked"),
    [
        ((8, 96, 64), True),
        ((4, 8, 8), True),
        ((12, 768, 64), True),
        ((128, 1536, 2048), True),
        ((1, 8, 16), False),  # attention vectors
        ((4, 1, 1), False),
        ((96, 4, 4), False),  # a generator's constant
        ((256, 256, 3), False),  # a kernel
    ],
)
def test_which_weights_are_stacks(shape: tuple[int, ...], stacked: bool) -> None:
    net = nn.Module()
    net.w = nn.Parameter(torch.empty(shape, device="meta"))
    factors = dict(zoo.wrap(net, lora=2).trainable_parameters())
    assert {factor.dim() for factor in factors.values()} == {3 if stacked else 2}


def test_kernels_and_bilinear_forms_are_no_stacks() -> None:
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv1d(8, 8, 8)), nn.Bilinear(8, 8, 8))
    model = zoo.wrap(net, lora=2)
    assert model.footprint().trainable == 2 * 2 * (8 + 64) + 2 * (8 + 1)  # and the norms (8, 1, 1), as one column
