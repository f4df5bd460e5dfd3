"""New heads on images' bodies, other image sizes and channels: timm and transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import zoo
from zoo.plugin import hooks

IMAGES, LABELS = torch.rand(12, 3, 40, 40), torch.arange(12) % 3
WHOLE = zoo.Data((IMAGES, LABELS), split="all")


def run(model: zoo.Model, images: torch.Tensor) -> torch.Tensor:
    output = model.module.eval()(images)
    return getattr(output, "logits", output)


@pytest.mark.parametrize("library", ["timm", "transformers"])
@pytest.mark.parametrize("bits", [None, 4])
def test_other_classes_sizes_and_channels(
    make, make_transformers, tmp_path: Path, library: str, bits: int | None
) -> None:
    _, folder = (make if library == "timm" else make_transformers)()
    names = ["cat", "new", "ant"]  # the checkpoint has two of them
    asked: dict[str, Any] = {"classes": names, "image_size": 48, "channels": 1, "lora": 2}
    model = zoo.load(str(folder), bits=bits, device="cpu", seed=0, **asked)
    batch = next(iter(model.batches(WHOLE, batch_size=4, split="test")))
    assert batch["images"].shape == (4, 1, 48, 48)
    assert batch["labels"].tolist() == [0, 1, 2, 0]
    model.tune((IMAGES, LABELS), steps=3, batch_size=4, lr=3e-3, quiet=True)
    wanted = run(model, batch["images"])
    model.save_adapter(tmp_path / "saved")
    loaded = zoo.load(str(tmp_path / "saved"), bits=bits, device="cpu")
    assert torch.equal(run(loaded, batch["images"]), wanted)
    assert loaded.sample(images=IMAGES[:1]).data.shape == (1, 3)
    assert hooks.describe(loaded.entry)["image"] == "1 × 48 × 48"
    model.save(tmp_path / "whole")
    whole = zoo.load(str(tmp_path / "whole"), device="cpu")
    assert torch.allclose(run(whole, batch["images"]), wanted, atol=1e-5)
    again = next(iter(whole.batches(WHOLE, batch_size=4, split="test")))
    assert torch.allclose(again["images"], batch["images"], atol=1e-6)


def test_timm_resizes_alike(make) -> None:
    module, folder = make()
    model = zoo.load(str(folder), image_size=(48, 40), channels=1, device="cpu")
    theirs = timm.create_model(
        "vit_tiny_patch16_224",
        **{**json.loads((folder / "config.json").read_text())["model_args"], "img_size": (48, 40)},
    )
    theirs.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(module.state_dict(), theirs))
    grey = torch.rand(2, 1, 48, 40)
    summed = theirs.eval()(grey.expand(-1, 3, -1, -1))
    assert torch.allclose(run(model, grey), summed, atol=1e-4)
    assert model.entry.head is not None
    assert model.entry.head.modules == ()


@pytest.mark.parametrize("size", [(40, 48), (32, 32)])
def test_transformers_positions_of_another_grid(make_transformers, size: tuple[int, int]) -> None:
    module, folder = make_transformers()
    model = zoo.load(str(folder), image_size=size, device="cpu")
    images = torch.rand(2, 3, *size)
    wanted = module(images, interpolate_pos_encoding=True).logits  # without antialiasing, which matters downwards alone
    assert torch.allclose(run(model, images), wanted, atol=2e-2)


def test_a_convolution_takes_any_size_and_is_saved_as_timm_reads_it(make, tmp_path: Path) -> None:
    _, folder = make(
        "resnet10t", facts={"first_conv": "conv1.0", "classifier": "fc", "fixed_input_size": False}, num_classes=5
    )
    model = zoo.load(str(folder), classes=3, image_size=64, channels=1, device="cpu")
    assert model.entry.head is not None
    assert model.entry.head.modules == ("fc",)
    model.save(tmp_path / "whole")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'whole'}", pretrained=True).eval()
    assert tuple(theirs.pretrained_cfg["input_size"]) == (1, 64, 64)  # a list, in earlier timm
    images = torch.rand(2, 1, 64, 64)
    assert torch.allclose(theirs(images), run(model, images), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("library", ["timm", "transformers"])
@pytest.mark.parametrize("task", ["multilabel", "regress"])
def test_other_tasks(make, make_transformers, tmp_path: Path, library: str, task: str) -> None:
    _, folder = (make if library == "timm" else make_transformers)()
    labels = torch.randint(0, 2, (12, 2)) if task == "multilabel" else torch.randn(12, 2)
    model = zoo.load(str(folder), classes=["u", "v"], task=task, lora=2, device="cpu", seed=0)
    rows = [(image, label.tolist()) for image, label in zip(IMAGES, labels, strict=True)]
    wholes = [zoo.Data(data, split="all") for data in ((IMAGES, labels), rows)]
    batches = [next(iter(model.batches(data, batch_size=5, split="test"))) for data in wholes]
    assert torch.equal(batches[0]["labels"], labels[:5].float())
    assert all(torch.equal(batches[0][name], batches[1][name]) for name in batches[0])
    model.tune((IMAGES, labels), steps=2, batch_size=4, quiet=True)
    metrics = model.evaluate((IMAGES, labels))
    assert next(iter(metrics)) == ("f1" if task == "multilabel" else "mse")
    samples = model.sample(images=IMAGES[:2])
    assert samples.kind == ("probabilities" if task == "multilabel" else "text")
    assert len(samples.data[0]) == 2 if task == "multilabel" else samples.data[0].count(",") == 1
    model.save(tmp_path / "whole")
    assert zoo.load(str(tmp_path / "whole"), device="cpu").evaluate((IMAGES, labels)) == pytest.approx(
        metrics, abs=1e-4
    )
    with pytest.raises(zoo.DataError):
        model.batches("letters:sans", batch_size=2)


def test_bodies_alone(make, make_transformers, tmp_path: Path) -> None:
    from transformers import ViTModel

    _, folder = make(num_classes=0)
    model = zoo.load(str(folder), classes=3, lora=2, device="cpu")
    assert model.entry.head is not None
    assert model.entry.head.modules == ("head",)
    _, folder = make_transformers()
    body = ViTModel.from_pretrained(folder, add_pooling_layer=False)
    body.save_pretrained(tmp_path / "body")
    model = zoo.load(str(tmp_path / "body"), classes=3, device="cpu")
    images = torch.rand(2, 3, 32, 32)
    hidden = model.module.vit(images).last_hidden_state
    assert torch.allclose(hidden, body.eval()(images).last_hidden_state, atol=1e-5)


def test_what_cannot_be_resized_says_which_argument(make_transformers) -> None:
    _, folder = make_transformers("beit", use_relative_position_bias=True)
    with pytest.raises(zoo.CheckpointError, match="leave image_size out"):
        zoo.load(str(folder), image_size=64, device="cpu")
