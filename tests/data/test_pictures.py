"""Pictures of every format and mode, broken ones, classes by name in every plugin, streams that stay closed."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image, features

import zoo
from zoo import BatchRequest, Data, DataError
from zoo.data.images import image_batches, image_data, image_items
from zoo.data.pixels import as_picture, as_single, span_of
from zoo.data.report import collecting

RAMP = np.linspace(0, 1, 1024).reshape(32, 32)


def mean(path: Path) -> float:
    images, _ = image_data(Data(path, split="all"), size=32, channels=1, split="test")
    assert images.abs().max() <= 1
    return float((images / 2 + 0.5).mean())


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("a.tif", RAMP.astype(np.float32)),
        ("b.tif", (RAMP * 255).astype(np.float32)),
        ("c.tif", (RAMP * 65535).astype(np.int32)),
        ("d.tif", (RAMP * 1e6).astype(np.float32)),
        ("e.tif", (RAMP * 2 - 1).astype(np.float32)),
        ("f.png", (RAMP * 65535).astype(np.uint16)),
        ("g.png", (RAMP * 255).astype(np.uint8)),
    ],
)
def test_pictures_of_any_depth_keep_their_range(tmp_path: Path, name: str, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / name)
    assert mean(tmp_path / name) == pytest.approx(0.5, abs=0.01)
    with Image.open(tmp_path / name) as image:
        assert np.asarray(as_picture(image, 1)).mean() == pytest.approx(127.5, abs=2)


def test_one_range_counts_for_all_pictures_of_a_folder(tmp_path: Path) -> None:
    Image.fromarray((RAMP * 65535).astype(np.int32)).save(tmp_path / "a.tif")
    Image.fromarray((RAMP * 200).astype(np.int32)).save(tmp_path / "dark.tif")
    images, _ = image_data(tmp_path, size=32, channels=1, split="all")
    assert [round(float(image.max()), 2) for image in images] == [1.0, round(200 / 65535 * 2 - 1, 2)]


def test_values_that_are_no_numbers_are_broken(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="no finite numbers"):
        mean(tmp_path / "a.tif")
    assert span_of(3, 3) == (0, 255)
    with pytest.raises(DataError, match="finite"):
        span_of(0, float("inf"))


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "La", "CMYK", "YCbCr", "HSV", "I", "F"]
)
def test_white_is_white_in_every_mode(mode: str) -> None:
    white = Image.new("RGBA", (8, 8), "white")
    image = white.convert({"RGBa": "RGBA", "La": "LA", "PA": "P"}.get(mode, mode if mode != "HSV" else "RGB"))
    image = image.convert(mode) if mode in ("RGBa", "La", "HSV", "PA") else image
    values = as_single(image).float()
    assert float(values.min() / (1 if mode in ("I", "F") else 255)) == pytest.approx(1)
    assert as_picture(image, 3).getpixel((0, 0)) == (255, 255, 255)


def test_transparency_of_a_palette_becomes_white() -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.info["transparency"] = 0
    assert as_picture(image, 3).getpixel((0, 0)) == (255, 255, 255)


def test_files_are_known_by_their_content_whatever_their_ending(tmp_path: Path) -> None:
    kinds = [
        "PNG",
        "JPEG",
        "WEBP",
        "GIF",
        "BMP",
        "TIFF",
        "PPM",
        *(["AVIF"] if "avif" in features.get_supported() else []),
    ]
    for i, kind in enumerate(kinds):
        folder = tmp_path / ("cat" if i % 2 else "dog")
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (i, 9, 9)).save(folder / f"{i}.{['jfif', 'dat', 'png'][i % 3]}", kind)
    items = image_items(tmp_path, split="all")
    assert len(items) == len(kinds)
    assert items.labels.tolist() == [0 if path.parent.name == "cat" else 1 for path in items.images]


def test_the_first_frame_counts_and_it_is_said(tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 8), shade) for shade in (10, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with collecting() as reports:
        images, _ = image_data(tmp_path, size=8, channels=1, split="all")
    assert round(float(images[0, 0, 0, 0] / 2 + 0.5) * 255) == 10
    assert "1 pictures have several frames" in reports[0].notes[0]


def folders(root: Path, *names: str, size: tuple[int, int] = (32, 32)) -> Path:
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size, 20 * i).save(root / name)
    return root


@pytest.mark.parametrize("name", ["ddpm", "stylegan", "vit"])
def test_folders_h_and_k_are_classes_7_and_10_of_every_model_of_letters(tmp_path: Path, name: str) -> None:
    root = folders(tmp_path, "H/0.png", "K/0.png")
    model = zoo.load(name, device="cpu")
    batches = list(model.batches(Data(root, split="all"), batch_size=2, split="test"))
    assert torch.cat([batch["labels"] for batch in batches]).tolist() == [7, 10]
    lower = folders(tmp_path / "lower", "h/0.png", "k/0.png")
    with collecting() as reports:
        [batch] = model.batches(Data(lower, split="all"), batch_size=2, split="test")
    assert batch["labels"].tolist() == [7, 10]
    assert any("by name but for case and spaces: h is H, k is K" in str(report.notes) for report in reports)
    with pytest.raises(DataError, match=r"1 of the data's 2 classes are none of .*: Ω"):
        model.batches(Data(folders(tmp_path / "other", "A/0.png", "Ω/0.png"), split="all"), batch_size=2)
    renamed = Data(folders(tmp_path / "named", "aitch/0.png"), classes={"aitch": "H"}, split="all")
    assert next(iter(model.batches(renamed, batch_size=1, split="test")))["labels"].tolist() == [7]
    assert next(iter(model.batches(Data(root, classes=["K"]), batch_size=1)))["labels"].tolist() == [10]


def test_a_vae_says_that_it_does_not_use_classes(tmp_path: Path) -> None:
    root = folders(tmp_path, "H/0.png", "K/0.png")
    with collecting() as reports:
        batch = next(iter(zoo.load("vae", device="cpu").batches(root, batch_size=1)))
    assert "labels" not in batch
    assert any("has no classes" in line for report in reports for line in report.lines())


def test_a_split_without_a_class_numbers_the_others_as_all_do(tmp_path: Path) -> None:
    root = folders(tmp_path, "train/A/0.png", "train/B/0.png", "train/C/0.png", "Val/B/0.png", "Val/C/x/0.png")
    items = image_items(root, split="test")
    assert [items.classes[label] for label in items.labels] == ["B", "C"]
    assert items.labels.tolist() == [1, 2]


def test_equal_pictures_alone_serve_both_splits_and_it_is_said(tmp_path: Path) -> None:
    for name in ("cat/a/0.png", "dog/0.png", "dog/1.png"):
        folders(tmp_path, name)
    with collecting() as reports:
        assert [len(image_items(tmp_path, split=split)) for split in ("train", "test")] == [3, 3]
    assert "all examples are equal" in reports[0].rule
    assert "1 images equal others of another class" in reports[0].notes or "2 images" in str(reports[0].notes)


def test_forty_random_images_are_not_held_out_and_trained_on_at_once() -> None:
    images, labels = torch.rand(40, 3, 8, 8), torch.arange(40) % 4
    train, test = (image_data((images, labels), size=8, channels=3, split=split) for split in ("train", "test"))
    assert len(test[0]) == 4
    assert sorted(test[1].tolist()) == [0, 1, 2, 3]
    assert len(train[0]) == 36
    assert not any(torch.equal(one, other) for one in test[0] for other in train[0])


def test_a_table_names_its_pictures_and_captions(tmp_path: Path) -> None:
    folders(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\nc.png,third\na.png,first\nb.png,second\n")
    items = image_items(tmp_path, split="all")
    assert dict(zip([path.name for path in items.images], items.captions, strict=True)) == {
        "a.png": "first",
        "b.png": "second",
        "c.png": "third",
    }


def test_iterable_datasets_are_batches_without_a_length() -> None:
    columns = {"image": [Image.new("L", (8, 8), i) for i in range(60)], "label": [i % 2 for i in range(60)]}
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["K", "H"])})
    passing = datasets.Dataset.from_dict(columns, features=kinds).to_iterable_dataset()

    def some(split: str, seed: int = 0) -> list[dict[str, torch.Tensor]]:
        request = BatchRequest(5, split, seed)
        names = ["H", "K"]
        found = image_batches(passing, request, size=8, channels=1, classes=(2, "m"), names=names)
        return list(islice(found, 8))

    def shades(batches: list[dict[str, torch.Tensor]]) -> dict[int, int]:
        values = torch.cat([batch["images"] for batch in batches])[:, 0, 0, 0]
        numbers = [round(float(value / 2 + 0.5) * 255) for value in values]
        return dict(zip(numbers, torch.cat([batch["labels"] for batch in batches]).tolist(), strict=True))

    train, test = shades(some("train")), shades(some("test"))
    assert train.keys().isdisjoint(test)
    assert all(label == (1 if shade % 2 == 0 else 0) for shade, label in (train | test).items())
    assert torch.equal(some("train")[0]["images"], some("train")[0]["images"])
    assert not torch.equal(some("train")[0]["images"], some("train", seed=1)[0]["images"])
