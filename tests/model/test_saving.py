"""The state of a zoo.Model and the files that it saves are what the libraries read."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from zoo.errors import OutputError
from zoo.storage import atomic

from .helpers import Net, out, perturb, two


@pytest.mark.parametrize("bits", [None, 4, 16])
def test_the_state_is_what_the_librarys_own_module_loads(bits: int | None, net: Net, ids: Tensor) -> None:
    model = zoo.wrap(copy.deepcopy(net), bits=bits, lora=two)
    perturb(model)
    model.merge("a")
    net.load_state_dict(model.state_dict())
    torch.testing.assert_close(out(net, ids), out(model, ids), rtol=1e-5, atol=1e-5)


def test_saving_a_wrapped_module(net: Net, ids: Tensor, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = zoo.wrap(copy.deepcopy(net), bits=4, lora=two)
    perturb(model)
    assert model.save(tmp_path / "m") == tmp_path / "m"
    net.load_state_dict(load_file(tmp_path / "m" / "model.safetensors"))
    torch.testing.assert_close(out(net, ids), out(model, ids), rtol=1e-5, atol=1e-5)
    (tmp_path / "m" / "notes.txt").write_text("mine")
    model.save(tmp_path / "m")
    assert (tmp_path / "m" / "notes.txt").read_text() == "mine"
    (tmp_path / "m" / "pytorch_model.bin").write_text("another model")
    with pytest.raises(OutputError, match=r"holds other weights, pytorch_model\.bin"):
        model.save(tmp_path / "m")


def test_saving_where_it_cannot_be(net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.wrap(net)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write"):
        model.save(tmp_path / "file" / "below")
    model.save(tmp_path / "m")
    before = {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "save_tensors", full)
    with pytest.raises(OutputError, match="No space left"):
        model.save(tmp_path / "m")
    assert {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"m", "file"}


@pytest.mark.parametrize("bits", [None, 4])
def test_transformers_reads_what_gpt_saves(bits: int | None, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 64, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 70, "bos_token_id": 0}
    GPT2LMHeadModel(GPT2Config(**sizes, eos_token_id=0)).save_pretrained(tmp_path / "base")
    model = zoo.load(str(tmp_path / "base"), bits=bits, lora=zoo.LoRA(rank=2, targets="all"), device="cpu")
    perturb(model)
    model.save(tmp_path / "out")
    ids = torch.randint(0, 70, (2, 9))
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path / "out").eval()
    ours = zoo.load(str(tmp_path / "out"), device="cpu")
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)
        assert torch.equal(ours(ids).logits, theirs(ids).logits)


@pytest.mark.parametrize("bits", [None, 4])
def test_diffusers_reads_what_ddpm_saves(bits: int | None, tmp_path: Path) -> None:
    from diffusers import UNet2DModel

    made = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(32,),
        down_block_types=("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",),
    )
    made.save_pretrained(tmp_path / "base")
    model = zoo.load(str(tmp_path / "base"), bits=bits, lora=zoo.LoRA(rank=2, targets="all"), device="cpu")
    perturb(model, 0.05)
    model.save(tmp_path / "out")
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 900])
    theirs = UNet2DModel.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(x, t).sample, model(x, t).sample, rtol=1e-4, atol=1e-4)
