"""Modules that somebody compiled, distributed or checkpointed before: plain names everywhere, and the same values."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

import zoo
from zoo.errors import AdapterError, ZooError
from zoo.weights.update import Update
from zoo.weights.walk import library_modules, plain_names, submodule, unwrapped


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6)
        self.block = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.norm(self.first(x)).tanh())


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    store = torch.distributed.FileStore(str(tmp_path_factory.mktemp("store") / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def compiled(module: nn.Module) -> Any:
    return torch.compile(module, backend="eager")


def inside(module: Net, wrap: Callable[[nn.Module], Any]) -> Net:
    module.block[0] = wrap(module.block[0])
    module.first = wrap(module.first)
    return module


def distributed(module: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(module)


def inner_checkpointed(module: Net) -> Net:
    module.block = checkpoint_wrapper(module.block)
    return module


def sharded(module: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy

    one = {"sharding_strategy": ShardingStrategy.NO_SHARD, "device_id": torch.device("cpu"), "use_orig_params": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NO_SHARD is going, and the others do not shard on one process either
        return FullyShardedDataParallel(module, **one)


WAYS: dict[str, Callable[[Net], nn.Module]] = {
    "compiled": compiled,
    "compiled inside": lambda module: inside(module, compiled),
    "distributed": distributed,
    "compiled and distributed": lambda module: compiled(distributed(module)),
    "distributed and compiled": lambda module: distributed(compiled(module)),
    "data parallel": nn.DataParallel,
    "checkpointed inside": inner_checkpointed,
}


def alone(way: str) -> Any:
    """Return a case: torch looks for streams of any accelerator that there is, the strict device too."""
    return pytest.param(way, marks=pytest.mark.no_strict_device if way == "data parallel" else ())


@pytest.mark.filterwarnings("ignore::UserWarning:torch")  # of tracing, about torch's own code
@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("way", [alone(way) for way in WAYS])
def test_a_wrapped_module_has_the_plain_ones_names_and_adapters(way: str, tmp_path: Path) -> None:
    lora = zoo.LoRA(2, targets=["first", "block.0"], modules_to_save=["norm"], rank_pattern={"^first": 3})
    plain = zoo.wrap(net(), bits=8, lora=lora, seed=1)
    for _, parameter in plain.trainable_parameters():
        parameter.data.uniform_(-0.3, 0.3)
    plain.save_adapter(tmp_path / "plain")
    x = torch.randn(4, 6)
    expected = plain(x)

    model = zoo.wrap(WAYS[way](net()), bits=8, lora=tmp_path / "plain")
    torch.testing.assert_close(model(x), expected)
    assert model.fingerprint == plain.fingerprint
    assert model.entry == plain.entry
    assert [info.name for info in model.weights()] == [info.name for info in plain.weights()]
    assert [name for name, _ in model.trainable_parameters()] == [name for name, _ in plain.trainable_parameters()]
    assert model.state_dict().keys() == plain.state_dict().keys()

    model.save_adapter(tmp_path / "again")
    files = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("plain", "again")]
    assert files[0].keys() == files[1].keys()
    torch.testing.assert_close(zoo.wrap(net(), bits=8, lora=tmp_path / "again")(x), expected)


@pytest.mark.parametrize("way", ["compiled", "compiled inside", alone("data parallel")])
def test_the_base_trains_again_after_the_last_adapter(way: str) -> None:
    module = net()
    module.first.bias.requires_grad_(False)
    model = zoo.wrap(WAYS[way](module), lora=zoo.LoRA(2, targets=["block.0"]))
    model.remove_adapter("default")
    trains = {name for name, _ in model.trainable_parameters()}
    assert trains == {name for name, _ in net().named_parameters()} - {"first.bias"}


def test_the_library_still_saves_a_compiled_model(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=8, vocab_size=20, bos_token_id=0, eos_token_id=0)
    model = zoo.wrap(compiled(GPT2LMHeadModel(config).eval()), bits=4, lora=2)
    model.module.save_pretrained(tmp_path)
    ids = torch.randint(0, 20, (1, 5))
    again = GPT2LMHeadModel.from_pretrained(tmp_path)
    torch.testing.assert_close(again(ids).logits, model(ids).logits, atol=1e-5, rtol=1e-5)


def test_rows_of_a_compiled_models_embedding(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    def made() -> nn.Module:
        torch.manual_seed(0)
        sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 8, "vocab_size": 20}
        return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval()

    model = zoo.wrap(compiled(made()), lora=zoo.LoRA(2, targets=["c_attn"], trainable_token_indices=[3, 5]))
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.normal_()
    ids = torch.arange(2, 8)[None]
    model.save_adapter(tmp_path)
    again = zoo.wrap(made(), lora=tmp_path)
    torch.testing.assert_close(again(ids).logits, model(ids).logits)
    assert again.adapters["default"].trainable_token_indices == {"transformer.wte": (3, 5)}  # type: ignore[attr-defined]


def test_statistics_that_training_changed_in_a_compiled_module(tmp_path: Path) -> None:
    model, x = zoo.wrap(compiled(net()), lora=zoo.LoRA(2, targets=["first"])), torch.randn(9, 6)
    model.train()
    model(x)
    model.eval()
    expected = model(x)
    model.save_adapter(tmp_path)
    torch.testing.assert_close(zoo.wrap(net(), lora=tmp_path)(x), expected)
    model.deactivate()
    torch.testing.assert_close(model(x), net()(x))


def test_a_module_of_that_name_is_none_of_torchs_wrappers() -> None:
    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 2)

    mine = Mine()
    assert unwrapped(mine) is mine
    assert [path for path, _ in library_modules(mine)] == ["", "module"]
    assert plain_names(mine)("module.weight") == "module.weight"
    assert submodule(nn.Sequential(compiled(mine)), "0.module") is mine.module
    with pytest.raises(AttributeError, match="Mine has no module 'other'"):
        submodule(mine, "other")


@pytest.mark.usefixtures("group")
def test_adapters_made_after_the_module_was_distributed_are_not_averaged(caplog: pytest.LogCaptureFixture) -> None:
    module = distributed(net())
    zoo.wrap(module, lora=2)
    assert not caplog.records
    module = distributed(net())
    module.process_group = SimpleNamespace(size=lambda: 2)
    with caplog.at_level(logging.WARNING, "zoo"):
        zoo.wrap(module, lora=2)
    assert "will not average the gradients of adapters" in caplog.text


def test_a_shard_of_an_adapter_is_not_saved(tmp_path: Path) -> None:
    for lora, name in ((zoo.LoRA(2, targets=["first"]), "A"), (zoo.Full(targets=["first"]), "weight")):
        model = zoo.wrap(net(), lora=lora)
        update = next(layer for layer in model.module.modules() if isinstance(layer, Update))
        setattr(update, name, nn.Parameter(getattr(update, name).detach().flatten()[:5]))
        with pytest.raises(AdapterError, match=r"first\.weight: this process has a shard of its adapter"):
            model.save_adapter(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("group")
def test_sharded_afterwards_it_has_plain_names(tmp_path: Path) -> None:
    model = zoo.wrap(net(), lora=zoo.LoRA(2, targets=["block.0"]))
    names = [name for name, _ in model.trainable_parameters()]
    x = torch.randn(3, 6)
    expected = model(x)
    model.module.block = sharded(model.module.block)  # type: ignore[union-attr]
    torch.testing.assert_close(model(x), expected)
    assert [name for name, _ in model.trainable_parameters()] == names
    model.save_adapter(tmp_path)
    torch.testing.assert_close(zoo.wrap(net(), lora=tmp_path)(x), expected)


@pytest.mark.usefixtures("group")
def test_sharded_flat_parameters_are_refused() -> None:
    with pytest.raises(ZooError, match=r"in FullyShardedDataParallel already.*fully_shard"):
        zoo.wrap(sharded(net()), lora=2)
