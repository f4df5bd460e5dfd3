"""Mixed batches of all seven architectures' own modules: equal to separate runs, and every adapter trains."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from zoo.adapters import rows as nests
from zoo.errors import PluginError, ZooError

from .helpers import error, perturb

ROWS = ["b", None, "a", "b"]


def calls(name: str, model: zoo.Model) -> tuple[dict[str, Any], Any]:
    """Return a call of the module with four samples, and a function that makes a sample's own call of it."""
    pixels = torch.randn(4, 1, 32, 32)
    labels = torch.randint(0, 10, (4,))
    if name in ("gpt", "bert"):
        ids = torch.randint(0, model.module.config.vocab_size, (4, 12))
        mask = torch.ones(4, 12, dtype=torch.long)
        mask[1, 8:] = 0
        return {"input_ids": ids, "attention_mask": mask}, one_row
    if name == "gat":
        edges = torch.stack([torch.arange(4).repeat(3), torch.randint(0, 4, (12,))])
        return {"x": torch.rand(4, 256), "edge_index": edges}, lambda arguments, n: arguments
    return {
        "vit": {"x": pixels},
        "vae": {"sample": pixels},
        "ddpm": {"sample": pixels, "timestep": torch.randint(0, 1000, (4,)), "class_labels": labels},
        "stylegan": {"z": torch.randn(4, 64), "labels": labels},
    }[name], one_row


def one_row(arguments: dict[str, Any], n: int) -> dict[str, Any]:
    return {key: value[n : n + 1] for key, value in arguments.items()}


def floats(output: Any) -> list[Tensor]:
    return [one for one in nests.tensors(output).values() if one.is_floating_point()]


@pytest.mark.parametrize("bits", [32, 4])
@pytest.mark.parametrize("name", ["gpt", "bert", "vit", "stylegan", "vae", "ddpm", "gat"])
def test_a_mixed_batch_equals_separate_runs(name: str, bits: int) -> None:
    lora = {"a": zoo.LoRA(rank=2, targets="all"), "b": zoo.LoRA(rank=1, alpha=2, targets="all")}
    model = zoo.load(name, bits=bits, lora=lora, device="cpu")
    perturb(model, 0.1)
    arguments, alone = calls(name, model)
    with torch.no_grad():
        got = model(**arguments, adapters=ROWS)
        assert model.active == ("a", "b")
        apart = []
        for n, row in enumerate(ROWS):
            model.activate(*[row] if row else [])
            apart.append(floats(model(**alone(arguments, n))))
        if name == "gat":
            apart = [[one[n : n + 1] for one in outputs] for n, outputs in enumerate(apart)]
    model.activate("a", "b")
    assert floats(got)
    for n, whole in enumerate(floats(got)):
        wanted = torch.cat([outputs[n] for outputs in apart])
        assert error(whole, wanted) < 2e-5
        assert error(whole[:1], wanted[2:3]) > 1e-4
    for row in "ab":  # each adapter's gradients are there, and the other's are not
        chosen = [row, None, row, None]
        outputs = floats(model(**arguments, adapters=chosen))
        sum(one.square().mean() for one in outputs).backward()
        for path, parameter in model.trainable_parameters():
            assert (parameter.grad is not None) == (f".updates.{row}." in path) or discriminator(path), path
        model.module.zero_grad()


def discriminator(path: str) -> bool:
    """Return StyleGAN's discriminator, which the module's own call does not use."""
    return path.startswith("discriminator.")


def test_a_vaes_posterior_and_a_cache_of_keys_are_put_together() -> None:
    """Library objects that contain tensors: diffusers' distribution, transformers' cache, passed back to it."""
    vae = zoo.load("vae", lora={"a": 2, "b": 2}, device="cpu")
    gpt = zoo.load("gpt", lora={"a": 2, "b": 2}, device="cpu")
    perturb(vae)
    perturb(gpt)
    ids = torch.randint(0, gpt.module.config.vocab_size, (4, 9))
    with torch.no_grad():
        whole = gpt(ids, adapters=ROWS).logits
        first = gpt(ids[:, :6], adapters=ROWS, use_cache=True)
        taken = inspect.signature(gpt.module.forward).parameters
        cache = "cache" if "cache" in taken else "past_key_values"  # its older name
        rest = gpt(ids[:, 6:], adapters=ROWS, use_cache=True, **{cache: first[cache]})
    assert error(rest.logits, whole[:, 6:]) < 1e-5
    with pytest.raises(ZooError, match="adapters= names 3 samples"):
        vae(torch.randn(4, 1, 32, 32), adapters=ROWS[:3])


def test_nodes_of_a_graph_are_its_samples() -> None:
    model = zoo.load("gat", lora={"a": 2}, device="cpu")
    x, edges = torch.rand(5, 256), torch.randint(0, 5, (2, 9))
    with pytest.raises(ZooError, match="expected one entry for each node; the graph has 5 nodes, got 2 entries"):
        model(x, edges, adapters=["a", None])
    with pytest.raises(ZooError, match="the graph has no nodes"):
        model(edge_index=edges, adapters=["a", None])
    assert model.active == ("a",)
    with pytest.raises(PluginError, match="failed in its hook 'run_rows'"):
        model(x, edges, 3, 4, 5, adapters=["a", None, None, "a", "a"])
