"""`zoo.load(name, weights="random")`: initialised by the library, by a seed, and not from a checkpoint."""

from __future__ import annotations

import pytest
import torch

import zoo
from zoo.loading.resolve import resolve

CARRIED = ("bert", "ddpm", "gat", "gpt", "stylegan", "vae", "vit")


def values(model: zoo.Model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(first: zoo.Model, second: zoo.Model) -> bool:
    one, other = values(first), values(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", CARRIED)
def test_the_seed_decides_and_nothing_comes_from_the_checkpoint(name):
    state = torch.get_rng_state()
    first, again = (zoo.load(name, weights="random", seed=3, device="cpu") for _ in range(2))
    other, trained = zoo.load(name, weights="random", seed=4, device="cpu"), zoo.load(name, device="cpu")
    assert torch.equal(state, torch.get_rng_state())
    assert same(first, again)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    loaded = values(trained)
    drawn = {
        name
        for name, tensor in values(first).items()
        if tensor.ndim > 1 and not torch.equal(tensor, values(other)[name])
    }
    assert drawn
    assert not [name for name in drawn if torch.equal(values(first)[name], loaded[name])]
    assert values(first).keys() == loaded.keys()
    assert not first.module.training
    assert first.entry.weights == "random"


def test_without_a_seed_torchs_own_state_decides():
    torch.manual_seed(5)
    first, second = (zoo.load("gat", weights="random", device="cpu") for _ in range(2))
    assert not same(first, second)
    torch.manual_seed(5)
    assert same(first, zoo.load("gat", weights="random", device="cpu"))


def test_a_linear_layer_begins_as_its_library_has_it():
    torch.manual_seed(0)
    weight = zoo.load("vit", weights="random", seed=0, device="cpu").state_dict()["blocks.0.attn.qkv.weight"]
    assert weight.std().item() == pytest.approx(0.02, rel=0.05)  # timm's own, not torch's
    weights = zoo.load("gpt", weights="random", seed=0, device="cpu").state_dict()
    assert weights["transformer.h.0.attn.c_attn.weight"].std().item() == pytest.approx(0.02, rel=0.05)


def test_everything_trains_and_is_float32():
    model = zoo.load("gpt", weights="random", seed=0, device="cpu")
    assert {parameter.dtype for parameter in model.module.parameters()} == {torch.float32}
    assert model.footprint().trainable == model.footprint().parameters
    assert zoo.load("gat", weights="random", dtype="bfloat16", device="cpu").dtype == torch.bfloat16


def test_random_weights_are_quantized_and_adapted_like_others():
    model = zoo.load("gat", weights="random", bits=4, lora=2, seed=0, device="cpu")
    assert model.footprint().quantized_share > 0.98
    assert model.adapters
    assert same(model, zoo.load("gat", weights="random", bits=4, lora=2, seed=0, device="cpu"))


def test_a_folder_gives_the_configuration(tmp_path):
    zoo.load("gat", device="cpu").save(tmp_path / "trained")
    model = zoo.load(str(tmp_path / "trained"), weights="random", seed=0, device="cpu")
    assert same(model, zoo.load("gat", weights="random", seed=0, device="cpu"))


def test_an_inline_configuration_needs_no_download(monkeypatch):
    entry = resolve("gpt2", weights="random")
    assert (entry.weights, entry.folder, entry.config["n_layer"]) == ("random", None, 12)
    model = zoo.load("gat-cora", weights="random", seed=0, device="cpu")  # it has no weights at all
    assert model.footprint().parameters == 95_607


def test_a_saved_adapter_has_no_random_weights(tmp_path):
    model = zoo.load("gat", lora=2, device="cpu")
    model.save_adapter(tmp_path / "adapter")
    with pytest.raises(zoo.AdapterError, match="is a saved adapter, which random weights do not fit"):
        zoo.load(str(tmp_path / "adapter"), weights="random")


def test_on_meta_there_is_only_the_structure():
    assert zoo.load("gat", weights="random", device="meta").fingerprint is None
