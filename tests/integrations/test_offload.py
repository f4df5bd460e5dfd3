"""Modules that accelerate offloads to memory or disk, before zoo changes them and afterwards."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import transformers
from accelerate import cpu_offload, disk_offload, dispatch_model
from accelerate.hooks import remove_hook_from_submodules
from torch import Tensor, nn

import zoo

HOWS = ("memory", "memory, buffers too", "disk", "a map")
CPU = torch.device("cpu")
KINDS: dict[str, zoo.Adapter | None] = {
    "none": None,
    "lora": zoo.LoRA(4, targets="all"),
    "dora": zoo.LoRA(4, targets="all", dora=True),
    "pissa": zoo.LoRA(4, targets="all", init="pissa"),
    "loha": zoo.LoHa(2, targets="all"),
    "full": zoo.Full(targets="all"),
}


class _Net(nn.Module):
    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(16, 64)
        self.fc = nn.Linear(64, 64)
        self.conv = nn.Conv1d(64, 64, 3, padding=1)
        self.norm = nn.LayerNorm(64)
        self.stack = _Stack()
        self.head = nn.Linear(64, 16, bias=False)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.conv(self.fc(self.table(ids)).mT).mT
        return self.head(self.stack(self.norm(x)))


class _Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 64, 64) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        for one in self.w:
            x = x + torch.tanh(x @ one)
        return x


def _offload(module: nn.Module, how: str, folder: Path) -> None:
    if how == "disk":
        disk_offload(module, str(folder), execution_device=CPU)
    elif how == "a map":
        places = {"table": "cpu", "fc": "disk", "conv": "cpu", "norm": "disk", "stack": "disk", "head": "disk"}
        dispatch_model(module, places, main_device="cpu", offload_dir=str(folder), force_hooks=True)
    else:
        cpu_offload(module, execution_device=CPU, offload_buffers="buffers" in how)


def _fill(model: zoo.Model) -> None:
    if model.adapters:
        generator = torch.Generator().manual_seed(1)
        for _, parameter in model.trainable_parameters():
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.2)


def _same(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).norm() <= 1e-5 * expected.norm())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [None, 8, 4])
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("how", HOWS)
def test_outputs_are_those_without_offloading(
    how: str, first: bool, bits: int | None, kind: str, tmp_path: Path
) -> None:
    plain, ids, lora = _Net(tied=how != "disk").eval(), torch.randint(0, 16, (2, 5)), KINDS[kind]
    expected = zoo.wrap(copy.deepcopy(plain), bits=bits, lora=lora, seed=0)
    _fill(expected)
    y = expected(ids)
    module = copy.deepcopy(plain)
    if first:
        _offload(module, how, tmp_path)
    model = zoo.wrap(module, bits=bits, lora=lora, seed=0)
    assert model.fingerprint == expected.fingerprint
    assert model.device == CPU
    _fill(model)
    if not first:
        _offload(module, how, tmp_path)
    for _ in range(20 if kind in ("none", "lora") else 2):
        assert _same(model(ids), y)
    with torch.no_grad():
        assert _same(model(ids), y)
    if lora is not None:
        if first:
            model(ids).sum().backward()
            assert all(parameter.grad is not None for _, parameter in model.trainable_parameters())
        model.merge()
        assert _same(model(ids), y)
        model.unmerge()
        model.deactivate()
        expected.deactivate()
        assert _same(model(ids), expected(ids))
        model.activate("default")
        model.add_adapter("second", 2)
        model.remove_adapter("second")
        expected.activate("default")
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    remove_hook_from_submodules(module)
    assert _same(model(ids), y)
    assert not any(parameter.is_meta for parameter in module.parameters())


def test_weights_that_disk_offload_has_untied_are_two(tmp_path: Path) -> None:
    module, ids = _Net(tied=True).eval(), torch.randint(0, 16, (2, 5))
    y = module(ids)
    _offload(module, "disk", tmp_path)
    model = zoo.wrap(module, lora=2)
    assert {"table.weight", "head.weight"} <= {name for name, *_ in model.weights()}
    assert _same(model(ids), y)


def test_an_offloaded_adapter_refuses_to_train(tmp_path: Path) -> None:
    model, ids = zoo.wrap(_Net(tied=False), lora=2), torch.randint(0, 16, (2, 5))
    _offload(model.module, "memory", tmp_path)
    with pytest.raises(zoo.ZooError, match="offloaded cannot train: take its hooks off"):
        model(ids).sum().backward()
    model.add_adapter("new", 2)
    model.activate("new")
    model(ids).sum().backward()
    assert all(parameter.grad is not None for _, parameter in model.trainable_parameters())


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_unloading_is_refused_while_offloaded(first: bool, tmp_path: Path) -> None:
    module, ids = _Net(tied=False).eval(), torch.randint(0, 16, (2, 5))
    if first:
        _offload(module, "memory", tmp_path)
    model = zoo.wrap(module, lora=2)
    _fill(model)
    if not first:
        _offload(module, "memory", tmp_path)
    model.merge()
    y = model(ids)
    with pytest.raises(zoo.ZooError, match="is offloaded, so that zoo cannot unload"):
        model.unload()
    assert _same(model(ids), y)
    remove_hook_from_submodules(module)
    assert _same(model.unload()(ids), y)


def test_the_last_adapter_goes_and_the_offloaded_base_stays(tmp_path: Path) -> None:
    module, ids = _Net(tied=False).eval(), torch.randint(0, 16, (2, 5))
    y = module(ids)
    _offload(module, "disk", tmp_path)
    model = zoo.wrap(module, lora=2)
    _fill(model)
    model.remove_adapter("default")
    assert _same(module(ids), y)


@pytest.mark.parametrize("options", [{"bits": 4}, {"bits": 8}, {"lora": 2}])
def test_weights_without_values_are_refused(options: dict[str, int]) -> None:
    module = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    module[1].to("meta")
    with pytest.raises(zoo.ZooError, match=r"1\.weight has no values"):
        zoo.wrap(module, **options)  # type: ignore[arg-type]
    assert type(module[0].weight) is nn.Parameter
    whole = zoo.wrap(nn.Sequential(nn.Linear(64, 64, device="meta")), **options)  # type: ignore[arg-type]
    assert whole.device.type == "meta"


def test_a_hook_that_zoo_cannot_follow_is_refused() -> None:
    outer = nn.Sequential(nn.Sequential(nn.Linear(64, 64)))
    cpu_offload(outer, execution_device=CPU, preload_module_classes=["Sequential"])
    with pytest.raises(zoo.ZooError, match="has no values"):
        zoo.wrap(outer, lora=2)


@pytest.mark.parametrize("bits", [None, 4])
def test_a_model_that_transformers_has_loaded_to_disk(bits: int | None, tmp_path: Path) -> None:
    config = transformers.GPT2Config(vocab_size=64, n_embd=64, n_layer=2, n_head=2, n_positions=32)
    net, ids = transformers.GPT2LMHeadModel(config).eval(), torch.randint(0, 64, (2, 7))
    net.save_pretrained(tmp_path / "model")
    expected = zoo.wrap(net, bits=bits, lora=4, seed=0)
    places = {"transformer.wte": "cpu", "lm_head": "cpu", "transformer.wpe": "cpu", "transformer.ln_f": "cpu"}
    places |= {"transformer.h.0": "disk", "transformer.h.1": "disk"}
    loaded = transformers.GPT2LMHeadModel.from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=str(tmp_path / "offload")
    )
    model = zoo.wrap(loaded, bits=bits, lora=4, seed=0)
    _fill(expected)
    _fill(model)
    assert _same(model(ids).logits, expected(ids).logits)
    model.save_adapter(tmp_path / "adapter")
    fresh = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "model")
    assert _same(zoo.wrap(fresh, bits=bits, lora=tmp_path / "adapter")(ids).logits, model(ids).logits)


def test_a_loaded_model_can_be_dispatched(tmp_path: Path) -> None:
    expected, model = (zoo.load("gpt", bits=4, lora=4, device="cpu", seed=0) for _ in range(2))
    places = dict.fromkeys((name for name, _ in model.module.named_children()), "disk")
    dispatch_model(model.module, places, main_device="cpu", offload_dir=str(tmp_path), force_hooks=True)
    ids = torch.randint(0, 64, (2, 7))
    with torch.no_grad():
        assert _same(model(ids).logits, expected(ids).logits)
