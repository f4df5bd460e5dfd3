"""`zoo.load` of folders as libraries write them: whole, sharded, with tied weights, as .bin files."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import zoo
from zoo.errors import CheckpointError
from zoo.plugin import hooks

from .tiny import Tiny, out, put, real, state

pytestmark = pytest.mark.usefixtures("tiny_plugin")


@pytest.mark.parametrize("shards", [0, 3])
def test_safetensors_single_and_sharded(
    shards: int, module: Tiny, ids: Tensor, tmp_path: Path, open_: Callable[..., zoo.Model]
) -> None:
    model = open_(put(tmp_path / "m", state(module), shards))
    assert torch.equal(out(model, ids), out(module, ids))
    assert real(model)
    assert not model.module.training
    assert model.module.head.weight is model.module.embed.weight
    assert torch.equal(model.module.bn.running_mean, module.bn.running_mean)
    assert torch.equal(model.module.places, torch.arange(8))
    assert model.entry.plugin == "tiny"


def test_a_tied_weight_may_be_stored_under_either_name_or_both(
    module: Tiny, ids: Tensor, tmp_path: Path, open_: Callable[..., zoo.Model]
) -> None:
    tensors = state(module)
    prints = set()
    other = {("head.weight" if name == "embed.weight" else name): tensor for name, tensor in tensors.items()}
    for number, variant in enumerate((tensors, other, {**tensors, **other})):
        for bits in (None, 4):
            model = open_(put(tmp_path / str(number), {k: v.clone() for k, v in variant.items()}), bits=bits)
            assert model.module.head.weight is model.module.embed.weight
            prints.add(model.fingerprint)
            if bits is None:
                assert torch.equal(out(model, ids), out(module, ids))
    assert len(prints) == 1


def test_parameters_that_are_shared_in_any_way_stay_shared_on_meta() -> None:
    from zoo.loading.empty import meta_parameters

    shared = nn.Parameter(torch.randn(3, 3), requires_grad=False)
    with meta_parameters():
        made = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3))
        made[0].weight = made[1].weight = shared  # the same object twice
        made[2].weight = made[0].weight  # of the parameter
    assert made[0].weight is made[1].weight is made[2].weight
    assert all(parameter.is_meta for parameter in made.parameters())
    assert not made[0].weight.requires_grad
    assert made[0].bias.requires_grad
    assert not any(buffer.is_meta for buffer in made.buffers())
    assert not nn.Linear(2, 2).weight.is_meta


def test_two_tied_weights_that_differ_are_refused(
    module: Tiny, tmp_path: Path, open_: Callable[..., zoo.Model]
) -> None:
    folder = put(tmp_path / "m", {**state(module), "head.weight": module.embed.weight.detach() + 1})
    with pytest.raises(CheckpointError, match=r"head\.weight and embed\.weight are one weight .* two that differ"):
        open_(folder)
    assert open_(put(tmp_path / "m", load_file(folder / "model.safetensors"), tie=False)).footprint().parameters


@pytest.mark.parametrize("legacy", [False, True])
def test_a_bin_file_is_read_without_running_it(
    legacy: bool, module: Tiny, ids: Tensor, tmp_path: Path, open_: Callable[..., zoo.Model]
) -> None:
    folder = put(tmp_path / "m", {})
    (folder / "model.safetensors").unlink()
    torch.save(state(module), folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    assert torch.equal(out(open_(folder), ids), out(module, ids))


@pytest.mark.parametrize("how", ["torch", "legacy", "pickle"])
def test_a_payload_in_a_bin_file_does_not_run(
    how: str, module: Tiny, tmp_path: Path, open_: Callable[..., zoo.Model]
) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    folder = put(tmp_path / "m", {})
    (folder / "model.safetensors").unlink()
    content = {**state(module), "more": Payload()}
    if how == "pickle":
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, folder / "pytorch_model.bin", _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(
        CheckpointError, match=r"pytorch_model\.bin: asks to run \S+, and zoo executes nothing"
    ) as caught:
        open_(folder)
    assert not (tmp_path / "ran").exists()
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch's message advises to run it


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04" + bytes(100), pickle.dumps([1, 2], protocol=2)])
def test_a_bin_file_that_is_none(content: bytes, tmp_path: Path, open_: Callable[..., zoo.Model]) -> None:
    folder = put(tmp_path / "m", {})
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin") as caught:
        open_(folder)
    assert "\n" not in str(caught.value)


def test_gpt_loads_as_transformers_does(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    hooks.reset()
    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 16, "vocab_size": 90, "bos_token_id": 0}
    made = GPT2LMHeadModel(GPT2Config(**sizes, eos_token_id=0)).eval()
    ids = torch.randint(0, 90, (2, 9))
    for number, size in enumerate(("1GB", "60KB")):
        made.save_pretrained(tmp_path / str(number), max_shard_size=size)
        theirs = GPT2LMHeadModel.from_pretrained(tmp_path / str(number)).eval()
        ours = zoo.load(str(tmp_path / str(number)), device="cpu")
        with torch.no_grad():
            assert torch.equal(ours(ids).logits, theirs(ids).logits)
            assert torch.equal(ours(ids).logits, made(ids).logits)
    assert len(list((tmp_path / "1").glob("*.safetensors"))) > 2
    assert zoo.load(str(tmp_path / "1"), device="cpu", bits=4).footprint().quantized_share > 0.95


def test_ddpm_loads_as_diffusers_does(tmp_path: Path) -> None:
    from diffusers import UNet2DModel

    hooks.reset()
    made = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).eval()
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 900])
    for number, options in enumerate(({}, {"max_shard_size": "200KB"}, {"safe_serialization": False})):
        folder = tmp_path / str(number)
        made.save_pretrained(folder, **options)
        theirs = UNet2DModel.from_pretrained(folder).eval()
        ours = zoo.load(str(folder), device="cpu")
        with torch.no_grad():
            assert torch.equal(ours(x, t).sample, theirs(x, t).sample)
            assert torch.equal(ours(x, t).sample, made(x, t).sample)
    assert len(list((tmp_path / "1").glob("*.safetensors"))) > 2


def test_loading_does_not_hold_on_to_the_file(
    module: Tiny, ids: Tensor, tmp_path: Path, open_: Callable[..., zoo.Model]
) -> None:
    folder = put(tmp_path / "m", state(module))
    model = open_(folder)
    path = folder / "model.safetensors"
    path.write_bytes(bytes(path.stat().st_size))
    start = time.perf_counter()
    assert torch.equal(out(model, ids), out(module, ids))
    assert time.perf_counter() - start < 5
