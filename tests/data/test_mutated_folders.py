"""Folders as people have them, sixty of them, each changed in several ways: the right labels, or one clear line."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import zoo
from zoo.data.images import image_data, image_items
from zoo.data.report import collecting

CLASSES = ["cat", "Dog", "grey wolf", "ox_10", "ox_2"]
ENDINGS = [".png", ".PNG", ".jpg", ".bmp", ".webp", ".tif", ".gif", ".dat", ""]
SPLITS = [None, ("train", "test"), ("training", "val"), ("Train", "VALID"), ("train", "dev"), ("training", "eval")]
BROKEN = [b"", b"not a picture", b"\x89PNG\r\n\x1a\n cut off"]
HIDDEN = [".ipynb_checkpoints/a.png", ".DS_Store", "__MACOSX/._a.png"]


def _picture(path: Path, shade: int, drawn: random.Random) -> None:
    """Write a picture whose shade says of which class it is, whatever its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((drawn.randint(6, 12), drawn.randint(6, 12), 3), shade * 40 + 20, np.uint8)
    pixels[0, 0] = drawn.randint(0, 255)  # no two are equal
    kind = {".jpg": "JPEG", ".bmp": "BMP", ".webp": "WEBP", ".tif": "TIFF"}.get(path.suffix, "PNG")
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    Image.fromarray(pixels).save(path, format=kind, **options)


def _folder(root: Path, seed: int) -> tuple[dict[str, int], int]:
    """Make a folder; return class → its shade, and how many files are broken."""
    drawn = random.Random(seed)
    names = drawn.sample(CLASSES, drawn.randint(2, 5))
    shades = {name: i for i, name in enumerate(names)}
    split = drawn.choice(SPLITS)
    depth = drawn.choice([0, 0, 1, 2])
    broken = 0
    tops = [root / one for one in split] if split else [root]
    for which, top in enumerate(tops):
        for name in names[1:] if which and drawn.random() < 0.5 else names:  # a class that the second split lacks
            inner = top / name
            for level in range(depth):
                inner = inner / f"{drawn.choice(['a', 'b'])}{level}"
            for i in range(drawn.randint(2, 5)):
                _picture(inner / f"{drawn.randint(0, 99)}_{i}{drawn.choice(ENDINGS)}", shades[name], drawn)
            if drawn.random() < 0.3:
                (inner / "broken.png").write_bytes(drawn.choice(BROKEN))
                broken += 1
    if drawn.random() < 0.5:
        hidden = root / drawn.choice(HIDDEN)
        hidden.parent.mkdir(parents=True, exist_ok=True)
        hidden.write_bytes(b"x")
    return shades, broken


@pytest.mark.parametrize("seed", range(60))
def test_a_folder_is_read_rightly_or_refused(tmp_path: Path, seed: int) -> None:
    shades, broken = _folder(tmp_path, seed)
    for split in ("train", "test"):
        with collecting() as reports:
            items = image_items(tmp_path, split=split)
        assert set(items.classes) == set(shades)
        images, labels = image_data(tmp_path, size=6, channels=1, split=split)
        assert labels is not None
        for image, label in zip(images, labels.tolist(), strict=True):
            shade = ((image.median().item() + 1) * 127.5 - 20) / 40
            assert shade == pytest.approx(shades[items.classes[label]], abs=0.2)
        [report] = reports
        assert sum("broken.png" in name for name, _ in report.skipped) == broken
        assert report.served == (split,) or (report.served == ("validation",) and split == "test")
    if broken:
        with pytest.raises(zoo.DataError, match=r"broken\.png"):
            image_items(zoo.Data(tmp_path, broken="refuse"), split="train")


@pytest.mark.parametrize("kind", ["float32", "int32", "uint16", "uint8"])
def test_pictures_of_wide_numbers_are_scaled_by_their_range(tmp_path: Path, kind: str) -> None:
    ramp = np.linspace(0, 1, 1024).reshape(32, 32)
    top = {"float32": 1, "uint8": 255}.get(kind, 65535)
    Image.fromarray((ramp * top).astype(kind)).save(tmp_path / "a.tif")
    images, _ = image_data(tmp_path / "a.tif", size=32, channels=1, split="all")
    assert (images / 2 + 0.5).mean().item() == pytest.approx(0.5, abs=0.005)


def test_integers_and_floats_in_one_folder_have_ranges_of_their_own(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 1024).reshape(32, 32)
    Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "f.tif")
    Image.fromarray((ramp * 65535).astype(np.int32)).save(tmp_path / "i.tif")
    images, _ = image_data(tmp_path, size=32, channels=1, split="all")
    assert (images / 2 + 0.5).mean((1, 2, 3)).tolist() == pytest.approx([0.5, 0.5], abs=1e-3)


def test_one_list_of_classes_for_all_splits(tmp_path: Path) -> None:
    for inner in ("train/A", "train/B", "train/C", "val/B", "val/C"):
        _picture(tmp_path / inner / "0.png", 1, random.Random(inner))
    items = image_items(tmp_path, split="test")
    assert [items.classes[i] for i in items.labels.tolist()] == ["B", "C"]
    assert items.classes == ("A", "B", "C")
