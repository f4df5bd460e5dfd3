"""`model.save(folder, packed=True)`: the same bits again, of every architecture and scheme."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

import zoo
from zoo.formats import packed
from zoo.formats.packed import DESCRIPTION, WEIGHTS
from zoo.plugin import hooks
from zoo.storage.atomic import digest
from zoo.weights import footprint
from zoo.weights.carrier import carried
from zoo.weights.walk import managed_weights

ARCHITECTURES = ["gpt", "bert", "ddpm", "vae", "vit", "stylegan", "gat"]
SCHEMES = [
    zoo.Quantization(4, "nf4", 64, True),
    zoo.Quantization(4, "fp4", 128, False),
    zoo.Quantization(8),
    zoo.Quantization(8, "dynamic8", 256),
    zoo.Quantization(16),
    zoo.Quantization(16, "fp16"),
    None,
]


def files(folder: Path) -> dict[str, str]:
    return {path.name: digest(path) for path in sorted(folder.iterdir())}


def same(one: zoo.Model, other: zoo.Model) -> bool:
    """Whether the tensors, packed ones and scales among them, are equal in name, type and every bit."""
    first, second = one.module.state_dict(), other.module.state_dict()
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and first[name].equal(second[name]) for name in first
    )


def reloaded(model: zoo.Model, folder: Path) -> zoo.Model:
    """Save, load and save: the files are equal, and nothing was quantized on the way."""
    model.save(folder / "a", packed=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo.loading.stream.pack_weight", None)
        again = zoo.load(str(folder / "a"), device="cpu")
    again.save(folder / "b", packed=True)
    assert files(folder / "a") == files(folder / "b")
    assert same(model, again)
    assert (again.scheme, again.dtype, again.fingerprint) == (model.scheme, model.dtype, model.fingerprint)
    assert again.footprint() == model.footprint()
    return again


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture(name, tmp_path):
    model = zoo.load(name, bits=4, device="cpu")
    again = reloaded(model, tmp_path)
    assert type(again.module) is type(model.module)
    size = sum(path.stat().st_size for path in (tmp_path / "a").glob("*.safetensors"))
    assert size < 1.02 * model.footprint().bytes + 40_000


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_every_scheme(scheme, tmp_path):
    reloaded(zoo.load("gat", bits=scheme, device="cpu"), tmp_path)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_stack_of_matrices(bits, tmp_path):
    """transformers' fused experts, which quantizers get as one matrix of all their rows."""
    config = transformers.MixtralConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=3,
        vocab_size=64,
    )
    model = zoo.wrap(transformers.MixtralForCausalLM(config), bits=bits)
    model.save(tmp_path, packed=True)
    entry = replace(model.entry, folder=tmp_path)
    folder = packed.read(entry)
    assert folder is not None
    read = {name: carried(tensor) for name, tensor in packed.tensors(entry, folder)}
    expected = {name: store.quantized_base() for name, store in managed_weights(model.module).items()}
    assert any(len(store.shape) == 3 for store in expected.values())
    for name, store in expected.items():
        again = read[name]
        assert again is not None, name
        assert (again.codec, again.shape, again.names) == (store.codec, store.shape, store.names)
        assert all(again.state_dict()[part].equal(value) for part, value in store.state_dict().items())


def test_another_compute_type_is_kept(tmp_path):
    assert reloaded(zoo.load("gat", bits=4, dtype="bfloat16", device="cpu"), tmp_path).dtype == torch.bfloat16
    assert zoo.load(str(tmp_path / "a"), dtype="float32", device="cpu").dtype == torch.float32


@dataclass(frozen=True)
class Signs:
    """The codec of a plugin: a sign for each value, and one size."""

    block_size: int
    scheme: str = "signs"
    bits: int = 8

    def unpack(self, tensors: tuple[Tensor, ...], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        return (tensors[0] * tensors[1]).view(shape).to(dtype)


class SignsPlugin:
    @zoo.hookimpl
    def quantize(self, weight: Tensor, scheme: zoo.Quantization) -> zoo.QuantizedTensor:
        size = weight.abs().mean().view(1) if not weight.is_meta else torch.empty(1, device="meta")
        tensors = {"signs": weight.sign().to(torch.int8), "size": size.float()}
        return zoo.QuantizedTensor(Signs(scheme.block_size), weight.shape, weight.dtype, tensors)


@pytest.fixture
def signs():
    hooks.reset()
    hooks.register(SignsPlugin(), "signs")
    yield
    hooks.reset()


@dataclass(frozen=True)
class Quiet:
    """A codec that does not say its block size in zoo's word."""

    block: int
    scheme: str = "signs"
    bits: int = 8

    unpack = Signs.unpack


@pytest.mark.usefixtures("signs")
def test_a_codec_that_does_not_say_its_block_size_is_found_by_the_models_scheme(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "Signs", Quiet)
    model = zoo.load("gat", bits=zoo.Quantization(8, "signs", 32), device="cpu")
    reloaded(model, tmp_path)
    object.__setattr__(next(iter(managed_weights(model.module).values())).packed.codec, "block", 3)
    with pytest.raises(zoo.OutputError, match="stored as signs, which no quantizer"):
        model.save(tmp_path / "c", packed=True)


@pytest.mark.usefixtures("signs")
def test_a_plugins_codec_is_found_again_through_its_hook(tmp_path):
    model = zoo.load("gat", bits=zoo.Quantization(8, "signs", 32), device="cpu")
    reloaded(model, tmp_path)
    hooks.reset()
    with pytest.raises(zoo.QuantizationError, match="by scheme 'signs': install its plugin"):
        zoo.load(str(tmp_path / "a"), device="cpu")


def test_adapters_active_ones_are_refused_and_merged_ones_are_the_base(tmp_path, perturb):
    model = zoo.load("gat", bits=4, lora=4, device="cpu")
    perturb(model)
    with pytest.raises(zoo.OutputError, match=r"adapters are active \(default\).*save_adapter"):
        model.save(tmp_path / "a", packed=True)
    assert not (tmp_path / "a").exists()
    model.save_adapter(tmp_path / "adapter")
    expected = model.state_dict()
    model.deactivate()
    again = reloaded_base(model, tmp_path / "base")
    assert again.fingerprint == model.fingerprint
    over = zoo.load(str(tmp_path / "base"), lora=tmp_path / "adapter", device="cpu")  # the base is still itself
    assert all(expected[name].equal(value) for name, value in over.state_dict().items())
    model.activate("default")
    model.merge()
    merged = reloaded_base(model, tmp_path / "merged")
    assert all(expected[name].equal(value) for name, value in merged.state_dict().items())
    with pytest.raises(zoo.AdapterError, match="made for the base"):
        merged.add_adapter("old", tmp_path / "adapter")


def reloaded_base(model: zoo.Model, folder: Path) -> zoo.Model:
    model.save(folder, packed=True)
    return zoo.load(str(folder), device="cpu")


def test_bits_that_the_folder_does_not_have_are_refused(tmp_path):
    zoo.load("gat", bits=4, device="cpu").save(tmp_path, packed=True)
    assert zoo.load(str(tmp_path), bits=4, device="cpu").scheme == zoo.Quantization(4)
    with pytest.raises(zoo.CheckpointError, match="leave bits out"):
        zoo.load(str(tmp_path), bits=8, device="cpu")
    structure = zoo.load(str(tmp_path), device="meta")
    assert structure.footprint() == zoo.load(str(tmp_path), device="cpu").footprint()


def test_digests_and_other_weights_in_the_folder(tmp_path):
    model = zoo.load("gat", bits=4, device="cpu")
    model.save(tmp_path / "a", packed=True, digests=True)
    zoo.load(str(tmp_path / "a"), device="cpu")
    data = bytearray((tmp_path / "a" / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (tmp_path / "a" / WEIGHTS).write_bytes(data)
    with pytest.raises(zoo.CheckpointError, match="sha256"):
        zoo.load(str(tmp_path / "a"), device="cpu")
    model.save(tmp_path / "b")
    with pytest.raises(zoo.OutputError, match="holds other weights"):
        model.save(tmp_path / "b", packed=True)


def damage(folder: Path, change: Any) -> None:
    told = json.loads((folder / DESCRIPTION).read_text())
    change(told)
    (folder / DESCRIPTION).write_text(json.dumps(told))


NAME = "convs.0.lin.weight"


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told.update(format=2),
        lambda told: told.update(dtype="float"),
        lambda told: told.update(scheme={"bits": 3}),
        lambda told: told.update(base={NAME: ["float32", "64", "AAAA"]}),
        lambda told: told.update(weights=[]),
        lambda told: told["weights"].update({NAME: None}),
        lambda told: told["weights"][NAME].update(shape=[-1, 64]),
        lambda told: told["weights"][NAME].update(shape=[10**9, 10**9]),
        lambda told: told["weights"][NAME].update(quantized_shape=None),
        lambda told: told["weights"][NAME].update(quantized_shape=[-1, 64]),
        lambda told: told["weights"][NAME].update(quantized_shape=[3]),
        lambda told: told["weights"][NAME].update(tensors=["packed"]),
        lambda told: told["weights"][NAME]["quantization"].update(block_size=128),
        lambda told: told["weights"][NAME].update(quantization={"bits": 4, "scheme": "os.system"}),
        lambda told: told["weights"].update(other=told["weights"][NAME]),
        lambda told: told["weights"].pop(NAME),
    ],
)
def test_a_damaged_description_is_refused(change, tmp_path):
    zoo.load("gat", bits=4, device="cpu").save(tmp_path, packed=True)
    damage(tmp_path, change)
    with pytest.raises(zoo.ZooError) as caught:
        zoo.load(str(tmp_path), device="cpu")
    assert "\n" not in str(caught.value)


def test_tensors_of_another_size_are_refused_before_a_kernel_reads_past_their_end(tmp_path):
    zoo.load("gat", bits=4, device="cpu").save(tmp_path, packed=True)
    tensors = load_file(tmp_path / WEIGHTS)
    tensors[f"{NAME}.scales"] = tensors[f"{NAME}.scales"][:1].clone()
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(zoo.CheckpointError, match=f"{NAME} has tensors"):
        zoo.load(str(tmp_path), device="cpu")


def test_a_module_without_a_configuration_is_refused(tmp_path):
    model = zoo.wrap(torch.nn.Sequential(torch.nn.Linear(64, 64)), bits=4)
    with pytest.raises(zoo.OutputError, match=r"no configuration that zoo\.load could make it from"):
        model.save(tmp_path, packed=True)
    assert footprint.quantized(footprint.tied_groups(model.module)[1].value)


def test_loading_to_another_place_than_the_file(tmp_path):
    """The tensors are no views of the file, which may change."""
    model = zoo.load("gat", bits=4, device="cpu")
    again = reloaded_base(model, tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"\0" * (tmp_path / WEIGHTS).stat().st_size)
    assert same(model, again)
