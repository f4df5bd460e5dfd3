"""Push and load for all seven architectures, through the client and a Hub on this machine."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest
import torch

import zoo

from .server import TOKEN, Hub

NAMES = ("bert", "ddpm", "gat", "gpt", "stylegan", "vae", "vit")
OPTIONS = {"ddpm": {"steps": 3}, "gpt": {"max_new_tokens": 5}}
PEFT = ("bert", "ddpm", "gpt", "vae")  # PEFT cannot express all weights of the others


def trained(name: str, bits: int | None = 4, targets: Any = "all") -> zoo.Model:
    """Return a model with an adapter that has an effect, and a record of its training."""
    model = zoo.load(name, bits=bits, lora=zoo.LoRA(2, targets=targets), device="cpu", seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in model.module.named_parameters():
            if ".updates." in key:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    run = {"data": "letters:serif", "steps": 3, "batch_size": 2, "lr": 1e-3, "seconds": 0.5}
    model.records["default"] = {"training": [{**run, "first_loss": 2.5, "last_loss": 1.25}]}
    return model


@pytest.mark.turns(3)
@pytest.mark.parametrize("name", NAMES)
def test_what_was_pushed_is_what_is_loaded(name: str, hub: Hub) -> None:
    from PIL import Image

    model = trained(name)
    options = OPTIONS.get(name, {})
    drawn = model.sample(2, seed=0, **options)
    given = drawn if name == "ddpm" else None
    result = model.push("me/adapter", samples=given)
    repository = hub.repositories["me/adapter"]
    assert [commit.sha for commit in repository.log()][:-1] == [result.sha], "one commit"
    assert result == zoo.PushResult(f"{hub.url}/me/adapter/commit/{result.sha}", result.sha, "me/adapter", "main")
    files = repository.head().files
    own, card = json.loads(files["zoo.json"]), files["README.md"].decode()
    assert set(own["sha256"]) == set(files) - {"zoo.json", ".gitattributes"}
    assert own["architecture"] == name
    assert own["bits"] == 4
    for word in ("- lora", "- zoo", f"- {name}", "license: apache-2.0", "letters:serif", 'lora="me/adapter"'):
        assert word in card
    assert "library_name: peft" in card if name in PEFT else "library_name: adapter-zoo" in card
    if drawn.kind == "text":
        assert "samples.png" not in files
        assert len(re.findall(r"^```text$", card, re.MULTILINE)) == 3
    else:
        assert "![Samples](samples.png)" in card
        assert Image.open(BytesIO(files["samples.png"])).width >= 64
    assert TOKEN.encode() not in b"".join(files.values())

    for again in (
        zoo.load("me/adapter", bits=4, device="cpu"),
        zoo.load(name, bits=4, lora="me/adapter", device="cpu"),
    ):
        assert again.active == ("default",)
        state = model.state_dict()
        assert all(torch.equal(tensor, state[key]) for key, tensor in again.state_dict().items())
        same = again.sample(2, seed=0, **options)
        assert torch.equal(same.data, drawn.data) if torch.is_tensor(drawn.data) else same.data == drawn.data
    assert again.push("me/adapter", samples=given) == replace(result, unchanged=True)
    assert len(repository.log()) == 2


# Warnings of PEFT and transformers about themselves.
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", [*PEFT, "vit"])
def test_the_cards_own_code_loads_it_with_peft(name: str, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the base in full precision, as PEFT has it: the weights it computes with are zoo's."""
    monkeypatch.setattr("zoo.loading.load.pick_device", lambda device: torch.device("cpu"))
    model = trained(name, bits=None, targets=["qkv", "fc1"] if name == "vit" else None)
    model.push("me/adapter", samples=zoo.Samples(torch.rand(2, 1, 32, 32), "image"))
    card = hub.repositories["me/adapter"].head().files["README.md"].decode()
    blocks = re.findall(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL)
    scope: dict[str, object] = {}
    exec(blocks[1], scope)
    found = scope.get("model", scope["base"])
    assert isinstance(found, torch.nn.Module)
    if "model" in scope:  # transformers'
        ids = torch.randint(5, 60, (2, 9))
        with torch.no_grad():
            theirs, ours = found.eval()(ids).logits, model.module(ids).logits
            torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)
        return
    state, checked = model.state_dict(), 0
    for path, layer in found.named_modules():
        if hasattr(layer, "get_delta_weight"):
            weight = layer.base_layer.weight + layer.get_delta_weight("default")
            torch.testing.assert_close(weight.detach(), state[f"{path}.weight"], rtol=1e-5, atol=1e-5)
            checked += 1
    assert checked > 3
