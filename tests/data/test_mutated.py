"""Folders and files of pictures, mutated: every picture has its own class, or one clear line says why not."""

from __future__ import annotations

import random
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

import zoo
from zoo import DataError
from zoo.data.images import image_items, open_image
from zoo.data.report import collecting
from zoo.data.spec import SPLITS

CLASSES = ("cat", "dog", "Éléphant", "class 10", "class 9")
Mutation = Callable[[Path, random.Random], None]


def shade(name: str) -> int:
    """Return the grey that every picture of a class has, about."""
    return 20 + 45 * CLASSES.index(name)


def picture(path: Path, name: str, draw: random.Random) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("L", (12, 12), shade(name))
    for _ in range(9):  # no two are equal
        image.putpixel((draw.randrange(12), draw.randrange(12)), shade(name) + draw.randrange(6))
    image.save(path, {".jpg": "JPEG", ".jfif": "JPEG"}.get(path.suffix, "PNG" if path.suffix in (".dat", "") else None))


def build(root: Path, draw: random.Random) -> None:
    """Write a folder by class, divided or not, its pictures at any depth and of any ending."""
    divided = draw.random() < 0.5
    cased = draw.choice([str.lower, str.capitalize, str.upper])
    splits = [cased(draw.choice(SPLITS[split])) for split in draw.sample(sorted(SPLITS), 3)[:2]] if divided else [""]
    if divided and not any(name.lower() in SPLITS["train"] for name in splits):
        splits[0] = cased("train")
    for split in splits:
        for name in CLASSES:
            for i in range(draw.randrange(2, 5)):
                deep = "/".join(draw.choice("xyz") for _ in range(draw.randrange(3)))
                ending = draw.choice([".png", ".jpg", ".bmp", ".webp", ".tif", ".gif", ".jfif", ".PNG", ".dat", ""])
                picture(root / split / name / deep / f"{i}{ending}", name, draw)


def some(root: Path, draw: random.Random) -> Path:
    return draw.choice(sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink()))


def hidden(root: Path, draw: random.Random) -> None:
    target = some(root, draw).parent
    (target / "._a.png").write_bytes(b"junk")
    (target / "Thumbs.db").write_bytes(b"junk")
    shutil.copy(some(root, draw), target / ".b.png")
    (root / ".ipynb_checkpoints").mkdir(exist_ok=True)
    shutil.copy(some(root, draw), root / ".ipynb_checkpoints" / "c.png")
    (root / "__MACOSX" / "cat").mkdir(parents=True, exist_ok=True)
    (root / "__MACOSX" / "cat" / "d.png").write_bytes(b"junk")


def truncated(root: Path, draw: random.Random) -> None:
    path = some(root, draw)
    raw = path.read_bytes()
    path.write_bytes(raw[: draw.randrange(len(raw) // 2)])


def scrambled(root: Path, draw: random.Random) -> None:
    path = some(root, draw)
    path.write_bytes(draw.randbytes(200))


def other_files(root: Path, draw: random.Random) -> None:
    (some(root, draw).parent / "readme.txt").write_text("cat, dog")
    (root / "labels.csv").write_text("name,label\n0.png,dog\n")


def without_a_class(root: Path, draw: random.Random) -> None:
    name = draw.choice(CLASSES)
    folders = [path for path in root.rglob(name) if path.is_dir()]
    shutil.rmtree(folders[-1])


def empty_class(root: Path, draw: random.Random) -> None:
    (some(root, draw).parent / "empty").mkdir(exist_ok=True)
    (root / "nothing").mkdir(exist_ok=True)


def loop(root: Path, draw: random.Random) -> None:
    target = some(root, draw).parent / "loop"
    if not target.exists():
        target.symlink_to(root, target_is_directory=True)


def dead_link(root: Path, draw: random.Random) -> None:
    (some(root, draw).parent / "dead.png").symlink_to(root / "nowhere.png")


def wrong_ending(root: Path, draw: random.Random) -> None:
    path = some(root, draw)
    path.rename(path.with_name(f"{path.stem}-other{draw.choice(['.jpg', '.txt', '.bin', '.tiff'])}"))


def loose(root: Path, draw: random.Random) -> None:
    picture(root / "loose.png", draw.choice(CLASSES), draw)


MUTATIONS: tuple[Mutation, ...] = (
    hidden,
    truncated,
    scrambled,
    other_files,
    without_a_class,
    empty_class,
    loop,
    dead_link,
    wrong_ending,
    loose,
)


def mutated(root: Path, seed: int) -> list[str]:
    draw = random.Random(seed)
    root.mkdir()
    build(root, draw)
    chosen = draw.sample(MUTATIONS, draw.randrange(1, 5))
    for mutation in chosen:
        mutation(root, draw)
    return [mutation.__name__ for mutation in chosen]


def true_class(image: object) -> str:
    grey = open_image(image).convert("L")
    middle = sorted(grey.tobytes())[len(grey.tobytes()) // 2]
    return min(CLASSES, key=lambda name: abs(shade(name) - middle))


@pytest.mark.parametrize("seed", range(48))
def test_no_picture_of_a_mutated_folder_has_a_wrong_class(tmp_path: Path, seed: int) -> None:
    root = tmp_path / "pets"
    applied = mutated(root, zlib.crc32(str(seed).encode()))
    with collecting() as reports:
        parts = {split: image_items(root, split=split) for split in ("train", "test")}
    used = []
    for split, items in parts.items():
        assert len(items), (split, applied)
        assert items.labels is not None
        assert set(items.classes) <= set(CLASSES), applied
        for image, label in zip(items.images, items.labels.tolist(), strict=True):
            assert items.classes[label] == true_class(image), (split, image, applied)
        used.append({path.resolve() for path in items.images})
    assert parts["train"].classes == parts["test"].classes
    assert used[0].isdisjoint(used[1])
    said = "\n".join(line for report in reports for line in report.lines())
    left = {name for report in reports for name, _ in report.skipped}
    for path in root.rglob("*.png"):  # used, or said; what lies in a hidden folder is said with it
        if not path.is_symlink() and path.resolve() not in used[0] | used[1] and "loop" not in path.parts:
            name = path.relative_to(root)
            splits = {split for report in reports for split in report.splits}
            assert {str(name), *map(str, name.parents)} & left or len(splits) > 2, (str(name), said)


def test_a_broken_picture_is_refused_by_choice(tmp_path: Path) -> None:
    root = tmp_path / "pets"
    root.mkdir()
    draw = random.Random(0)
    build(root, draw)
    bad = next(path for path in sorted(root.rglob("*.*")) if path.is_file())
    bad.write_bytes(bad.read_bytes()[:40])
    with pytest.raises(DataError, match=bad.name) as caught:
        image_items(zoo.Data(root, broken="refuse"), split="train")
    assert "\n" not in str(caught.value)


TABLES = {
    "no label in one row": "image,label\na.png,cat\nb.png,\nc.png,dog\nd.png,cat\n",
    "a picture is missing": "image,label\na.png,cat\nnowhere.png,dog\nc.png,dog\nd.png,cat\n",
    "columns in another order": "label;image\ncat;a.png\ndog;b.png\ndog;c.png\ncat;d.png\n",
    "capitals": "IMAGE,Label\na.png,cat\nb.png,dog\nc.png,dog\nd.png,cat\n",
    "another name": "photograph,label\na.png,cat\nb.png,dog\n",
    "a bom": "\ufeffimage,label\na.png,cat\nb.png,dog\nc.png,dog\nd.png,cat\n",
    "a field too many": "image,label\na.png,cat,1\nb.png,dog\n",
    "nothing": "",
    "names alone": "image,label\n",
    "twice": "image,label,label\na.png,cat,dog\n",
    "numbers": "image,label\na.png,01\nb.png,1\nc.png,1\nd.png,01\n",
    "spaces": "image,label\na.png, cat\nb.png,dog \nc.png,dog\nd.png,cat\n",
    "blank lines": "image,label\n\na.png,cat\n\nb.png,dog\nc.png,dog\nd.png,cat\n\n",
    "carriage returns": "image,label\r\na.png,cat\r\nb.png,dog\r\nc.png,dog\r\nd.png,cat\r\n",
}
REFUSED = ("no label in one row", "another name", "a field too many", "nothing", "names alone", "twice")
TRUTH = {"a": ("cat", "01"), "b": ("dog", "1"), "c": ("dog", "1"), "d": ("cat", "01")}


@pytest.mark.parametrize("name", TABLES)
def test_a_mutated_table_is_right_or_one_clear_line(tmp_path: Path, name: str) -> None:
    draw = random.Random(1)
    for letter in TRUTH:
        picture(tmp_path / f"{letter}.png", draw.choice(CLASSES), draw)
    path = tmp_path / "pictures.csv"
    path.write_bytes(TABLES[name].encode())
    if name in REFUSED:
        with pytest.raises(DataError, match=r"pictures\.csv") as caught:
            image_items(path, split="all")
        assert "\n" not in str(caught.value)
        return
    items = image_items(path, split="all")
    assert isinstance(items.labels, torch.Tensor)
    for image, label in zip(items.images, items.labels.tolist(), strict=True):
        assert items.classes[label] in TRUTH[image.stem]
