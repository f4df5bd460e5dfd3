"""The package as a third party would see it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import timm
import torch

import zoo
from zoo.loading.resolve import resolve
from zoo.testing import conformance

HERE = Path(__file__).resolve().parents[1]

test_promise = conformance("vit")


def test_embedded_files_are_small_and_half_precision():
    from safetensors import safe_open

    folder = HERE / "zoo_vit" / "embedded"
    path = folder / "model.safetensors"
    assert path.stat().st_size < 6_000_000
    with safe_open(path, framework="pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    assert kinds == {torch.float16}
    assert timm.create_model(f"local-dir:{folder}", pretrained=True).num_classes == 26


def test_facts_come_from_the_files_alone():
    from zoo.plugin import hooks

    facts = hooks.describe(resolve("vit"))
    assert facts["module"] == "timm: vit_tiny_patch16_224"
    assert facts["image"] == "1 × 32 × 32"
    assert facts["classes"].startswith("26: A B C")
    facts = hooks.describe(resolve("vit-base-google", download=False))
    assert (facts["classes"], facts["layers"], facts["image"]) == ("1000", "12", "3 × 224 × 224")


@pytest.mark.parametrize("bits", [None, 32, 16, 8, 4])
@pytest.mark.parametrize("lora", [None, 4])
def test_every_verb_in_every_precision(make, tmp_path, bits, lora):
    _, folder = make(in_chans=1, facts={"mean": [0.5], "std": [0.5], "crop_pct": 1.0})
    adapter = zoo.LoRA(rank=lora, targets="all") if lora else None
    model = zoo.load(str(folder), bits=bits, lora=adapter, device="cpu", seed=0)
    images = torch.rand(24, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    data = (images, torch.arange(24) % 4)
    x = images * 2 - 1
    with torch.no_grad():
        before = model.module(x)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        assert torch.equal(twin.module(x), before)
    if bits in (16, 8, 4) and not lora:
        with pytest.raises(zoo.TuningError):
            model.tune(data, steps=5)
    else:
        model.tune(data, steps=5, batch_size=24, lr=2e-3 if lora else 1e-3)
        batch = next(iter(model.batches(data, batch_size=24)))
        assert model.eval().loss(batch) < twin.loss(batch)
    with torch.no_grad():
        after = model.module(x)
    reference = timm.create_model(f"local-dir:{folder}", pretrained=False).eval()
    reference.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(reference(x), after, rtol=1e-3, atol=1e-3)
    if lora:
        model.save_adapter(tmp_path / "adapter")
        fresh = zoo.load(str(folder), bits=bits, lora=str(tmp_path / "adapter"), device="cpu")
        with torch.no_grad():
            assert torch.equal(fresh.module(x), after)
        model.merge()
        with torch.no_grad():
            torch.testing.assert_close(model.module(x), after, rtol=1e-3, atol=1e-3)
    assert model.sample(2, seed=0, data=data).data.shape == (2, 7)


@pytest.mark.parametrize("bits", [None, 4])
def test_the_forward_compiles(make, bits):
    _, folder = make()
    model = zoo.load(str(folder), bits=bits, lora=zoo.LoRA(rank=2, targets="all"), device="cpu", seed=0)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model.module(x)
        torch._dynamo.reset()
        compiled = torch.compile(model.module, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-4)
