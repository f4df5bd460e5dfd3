"""Preprocessing, posteriors, losses, metrics and tuning."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch.nn import functional
from transformers import AutoImageProcessor

import zoo
from zoo.data.letters import LETTERS, render

SANS = 0.9962  # README.md


@pytest.fixture(scope="module")
def letters():
    return zoo.load("vit", device="cpu")


def _images(model, data):
    whole = zoo.Data(data, split="all")
    return torch.cat([batch["images"] for batch in model.batches(whole, batch_size=5, split="test")])


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("channels", [1, 3])
def test_files_are_preprocessed_as_timm_does(make, photographs, mode, channels):
    some = {"in_chans": 1, "facts": {"crop_mode": mode, "mean": [0.4], "std": [0.3]}}
    _, folder = make(**(some if channels == 1 else {"facts": {"crop_mode": mode}}), top={"label_names": [*"abcdefg"]})
    reference = timm.create_model(f"local-dir:{folder}", pretrained=True)
    config = resolve_model_data_config(reference)
    assert config["crop_pct"] == 0.8
    transform = create_transform(**config, is_training=False)
    model = zoo.load(str(folder), device="cpu")
    files = sorted((photographs / "cat").iterdir())
    expected = torch.stack([transform(Image.open(file).convert("L" if channels == 1 else "RGB")) for file in files])
    assert torch.equal(_images(model, photographs / "cat"), expected)
    with torch.no_grad():
        posterior = reference.eval()(expected).softmax(-1)
    samples = model.sample(paths=[str(file) for file in files])
    torch.testing.assert_close(samples.data, posterior)
    assert samples.captions == [file.name for file in files]
    if channels == 3:
        assert torch.equal(_images(model, [torch.tensor(np.array(Image.open(file))) for file in files]), expected)


def test_files_are_preprocessed_as_transformers_does(make_transformers, photographs):
    _, folder = make_transformers(processor={"image_mean": [0.1, 0.2, 0.3], "resample": 3})
    processor = AutoImageProcessor.from_pretrained(folder)
    model = zoo.load(str(folder), device="cpu")
    files = sorted((photographs / "cat").iterdir())
    expected = processor(images=[Image.open(file) for file in files], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(_images(model, photographs / "cat"), expected)
    (folder / "preprocessor_config.json").unlink()
    assert _images(zoo.load(str(folder), device="cpu"), photographs / "cat").shape == (6, 3, 32, 32)
    (folder / "preprocessor_config.json").write_text('{"image_processor_type": "Nobodys"}')
    with pytest.raises(zoo.CheckpointError, match="preprocessor_config"):
        _images(zoo.load(str(folder), device="cpu"), photographs / "cat")


def test_transparent_and_deep_pictures(make, tmp_path):
    _, folder = make(facts={"crop_pct": 1.0, "mean": [0, 0, 0], "std": [1, 1, 1]})
    model = zoo.load(str(folder), device="cpu")
    Image.new("RGBA", (32, 32), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("I;16", (32, 32), 65535).save(tmp_path / "deep.png")
    samples = model.sample(paths=[tmp_path / "clear.png", tmp_path / "deep.png"])
    assert torch.equal(samples.images, torch.ones(2, 3, 32, 32))


def test_subfolders_are_classes_by_name(make, photographs):
    _, folder = make(top={"label_names": ["ant", "bee", "cat", "dog", "eel", "fox", "gnu"]})
    model = zoo.load(str(folder), device="cpu")
    labels = torch.cat([batch["labels"] for batch in model.batches(photographs, batch_size=4, split="test")])
    assert set(labels.tolist()) <= {2, 3}
    assert len(labels) == 1  # a tenth
    batch = next(iter(model.batches(photographs, batch_size=8)))
    assert set(batch["labels"].tolist()) == {2, 3}
    (photographs / "dog").rename(photographs / "wolf")
    with pytest.raises(zoo.DataError, match=r"1 of the data's 2 classes are none of .*: wolf"):
        model.batches(photographs, batch_size=2)


def test_imagenets_folders_are_known_by_their_ids_and_names(make, photographs):
    (photographs / "dog").rename(photographs / "n01443537")
    (photographs / "cat").rename(photographs / "tench")
    _, folder = make(num_classes=1000)
    model = zoo.load(str(folder), device="cpu")
    assert set(next(iter(model.batches(photographs, batch_size=11)))["labels"].tolist()) == {0, 1}
    assert model.sample(images=torch.rand(1, 3, 32, 32)).labels[0].startswith("tench")


@pytest.mark.parametrize("bits", [None, 4])
def test_a_model_gets_a_head_for_other_classes_and_learns_them(make, photographs, bits):
    _, folder = make()
    config = json.loads((folder / "config.json").read_text())
    config |= {"num_classes": 2, "label_names": ["cat", "dog"]}
    del config["model_args"]["num_classes"]
    (folder / "config.json").write_text(json.dumps(config))
    model = zoo.load(str(folder), bits=bits, lora=4 if bits else None, device="cpu", seed=0)
    result = model.tune(photographs, steps=20, batch_size=11, lr=3e-3 if bits else 1e-3)
    assert result.losses[-1] < 0.8 * result.losses[0]


def test_a_sample_is_a_posterior_with_labels_and_pictures(letters, tmp_path):
    samples = letters.sample(30, seed=3, data="letters:serif", top_k=3)
    assert samples.data.shape == (30, 26)
    assert torch.allclose(samples.data.sum(1), torch.ones(30))
    assert samples.labels == list(LETTERS)
    assert samples.images.shape == (30, 1, 32, 32)
    assert set(samples.captions) <= set(LETTERS)
    assert [len(row) for row in samples.topk()] == [3] * 30
    right = sum(row[0][0] == truth for row, truth in zip(samples.topk(), samples.captions, strict=True))
    assert right >= 15
    assert samples.save(tmp_path / "letters.png").stat().st_size > 1000
    assert samples.save(tmp_path / "letters.csv").read_text().startswith("sample,likeliest,A,B,C")
    again = letters.sample(30, seed=3, data="letters:serif")
    assert torch.equal(samples.data, again.data)
    assert letters.sample(600, seed=0).data.shape == (600, 26)  # more than there are held out


def test_given_images_are_classified_all(letters):
    images, labels = render("sans", 20, seed=5, split="test")
    samples = letters.sample(images=images)
    assert len(samples) == 20
    assert (samples.data.argmax(1) == labels).float().mean() > 0.9
    assert torch.allclose(samples.images, images, atol=1e-6)
    assert torch.equal(letters.sample(20, images=images * 2 - 1).data.argmax(1), samples.data.argmax(1))
    picture = Image.fromarray((images[0, 0] * 255).byte().numpy())
    for one in (images[0], picture, [picture], images[:1].bfloat16()):
        assert letters.sample(images=one).data.argmax(1).tolist() == samples.data[:1].argmax(1).tolist()


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"top_k": 0}, "from 1"),
        ({"images": torch.rand(2, 1, 32, 32), "data": "letters:sans"}, "one of data, images and paths"),
        ({"n": 3, "images": torch.rand(2, 1, 32, 32)}, "2 images to classify, and n is 3"),
        ({"images": torch.rand(0, 1, 32, 32)}, "at least one example"),
        ({"paths": "nowhere.png"}, "nowhere.png"),
        ({"paths": "."}, "nothing to classify"),
        ({"steps": 3}, "no sampling option 'steps'"),
    ],
)
def test_requests_that_do_not_fit_are_refused(letters, options, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(zoo.ZooError, match=found):
        letters.sample(**options)


def test_the_loss_is_cross_entropy(letters):
    batch = next(iter(letters.batches("letters:serif", batch_size=6, seed=1)))
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == {"images": (6, 1, 32, 32), "labels": (6,)}
    assert batch["images"].min() == -1
    with torch.no_grad():
        scores = letters.module(batch["images"]).double()
    expected = -scores.log_softmax(1)[torch.arange(6), batch["labels"]].mean()
    assert letters.loss(batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_figures_are_of_the_held_out_images(letters):
    images, labels = render("italic", 60, seed=1, split="test")
    found = letters.evaluate(zoo.Data((images, labels), split="all"))
    with torch.no_grad():
        scores = letters.module(images * 2 - 1)
    assert found["accuracy"] == pytest.approx((scores.argmax(1) == labels).float().mean().item())
    assert found["loss"] == pytest.approx(functional.cross_entropy(scores, labels).item(), rel=1e-4)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (torch.rand(3, 1, 32, 32), "need labels"),
        ((torch.rand(3, 1, 32, 32), torch.tensor([26, 26, 26])), "labels from 26 to 26"),
        ("letters:gothic", "gothic"),
    ],
)
def test_data_that_do_not_fit_are_refused(letters, data, found):
    with pytest.raises(zoo.DataError, match=found):
        letters.batches(data, batch_size=2)


def test_unlabelled_images_have_no_figures_and_no_loss(letters):
    images = torch.rand(3, 1, 32, 32)
    with pytest.raises(zoo.DataError, match="metrics need labels"):
        letters.evaluate(images)
    with pytest.raises(zoo.DataError, match="a batch needs images and labels"):
        letters.loss({"images": images})
    (batch,) = letters.batches(images, batch_size=4, split="test")
    assert list(batch) == ["images"]


def test_the_embedded_model_is_as_good_as_its_readme_says(letters):
    assert letters.evaluate()["accuracy"] == pytest.approx(SANS, abs=0.003)


def test_it_judges_generated_letters(letters):
    """Crisp or blurred, letters are read and lie near letters; other pictures do not."""
    from zoo import metrics

    images, labels = render("sans", 208, seed=7, split="test")
    reference = render("sans", 208, seed=8, split="test")[0]
    blurred = functional.avg_pool2d(images, 3, 1, 1)
    found = {
        name: metrics.judged(letters, each.clamp(0, 1), labels=labels, reference=reference)
        for name, each in {"real": images, "blurred": blurred, "noise": torch.rand(208, 1, 32, 32)}.items()
    }
    assert found["real"]["accuracy"] > 0.98
    assert found["blurred"]["accuracy"] > 0.9
    assert found["noise"]["accuracy"] < 0.15
    assert found["real"]["frechet"] < found["blurred"]["frechet"] < found["noise"]["frechet"]
    features, _ = metrics.read(letters, images[:5])
    with torch.no_grad():
        hidden = letters.module.forward_features(images[:5] * 2 - 1)
        expected = letters.module.forward_head(hidden, pre_logits=True)
    assert torch.allclose(features, expected, atol=1e-5)


@pytest.mark.slow
def test_four_bits_cost_little_and_learn_another_style(letters):
    sans, serif = (render(style, 104, seed=0, split="test") for style in ("sans", "serif"))
    model = zoo.load("vit", bits=4, lora=8, device="cpu", seed=0)
    assert model.footprint().quantized_share > 0.985
    assert model.evaluate(sans)["accuracy"] > letters.evaluate(sans)["accuracy"] - 0.03
    before = model.evaluate(serif)
    model.tune("letters:serif", steps=15, batch_size=16, lr=3e-3)
    assert model.evaluate(serif)["loss"] < 0.85 * before["loss"]
    model.deactivate()
    assert model.evaluate(serif)["loss"] == pytest.approx(before["loss"], rel=1e-5)
