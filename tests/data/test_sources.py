"""Every kind of source becomes the same table, or one clear line."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import random
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate, random_split

import zoo
from zoo import DataError
from zoo.data.sources import read_source, read_table
from zoo.data.streams import Stream
from zoo.data.table import Table

WORDS = ["good", "NA", "None", "01", "true", "caf\u00e9", 'a "quoted, word"', "two\nlines", "", "1e5", "2020-01-01"]


def rows(table: Table) -> list[dict[str, Any]]:
    return [{name: column[i] for name, column in table.columns.items()} for i in range(len(table))]


def fresh_rows(seed: int, count: int = 12) -> list[dict[str, str]]:
    draw = random.Random(seed)
    return [{"id": f"{i:03}", "review": draw.choice(WORDS), "stars": str(draw.randrange(5))} for i in range(count)]


def write_csv(path: Path, found: list[dict[str, str]], delimiter: str, encoding: str = "utf-8") -> Path:
    frame = pd.DataFrame(found)
    frame.to_csv(path, sep=delimiter, index=False, encoding=encoding)
    return path


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_every_value_of_a_csv_stays_the_text_that_it_is(tmp_path: Path, seed: int, delimiter: str) -> None:
    found = fresh_rows(seed)
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        assert rows(read_table(write_csv(tmp_path / "a.csv", found, delimiter, encoding))) == found
    with gzip.open(tmp_path / "a.csv.gz", "wb") as file:
        file.write((tmp_path / "a.csv").read_bytes())
    assert rows(read_table(tmp_path / "a.csv.gz")) == found


def test_a_large_csv_is_read_as_a_small_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = fresh_rows(7, 300)
    path = write_csv(tmp_path / "a.csv", found, ",")
    monkeypatch.setattr("zoo.data.textfiles.IN_MEMORY", 10)
    read = read_table(path)
    assert not isinstance(read.columns["review"], list)
    assert rows(read) == found
    path.write_text("a,b\n1,2\n1\n")
    with pytest.raises(DataError, match=r"a.csv: line 3 has 1 fields"):
        read_table(path)


def test_json_in_every_layout_is_the_same_table(tmp_path: Path) -> None:
    found: list[dict[str, Any]] = [{"text": "a", "n": 1}, {"text": "2020-01-01", "n": 2}]
    layouts = {
        "lines.jsonl": "\n".join(map(json.dumps, found)) + "\n\n",
        "array.json": json.dumps(found, indent=1),
        "columns.json": json.dumps({"text": ["a", "2020-01-01"], "n": [1, 2]}),
        "inside.json": json.dumps({"version": 1, "data": found}),
        "of_another_name.txt": "\n".join(map(json.dumps, found)),
    }
    for name, text in layouts.items():
        (tmp_path / name).write_text(text)
        assert rows(read_table(tmp_path / name)) == found, name
    (tmp_path / "uneven.jsonl").write_text('{"a": 1}\n{"b": 2}')
    read = read_table(tmp_path / "uneven.jsonl")
    assert rows(read) == [{"a": 1, "b": None}, {"a": None, "b": 2}]
    assert read.notes == ("1 of 2 rows have no 'a'", "1 of 2 rows have no 'b'")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"a,b\n1,2,3\n", "line 2 has 3 fields and the first line 2"),
        ("a.csv", b"a,a\n1,2\n", "names a twice"),
        ("a.csv", b"a,b\ncaf\xe9,2\n", r"expected UTF-8 text, found bytes that are not \(0xe9\)"),
        ("a.csv", b"a,b\n\0,2\n", "zero bytes"),
        ("a.csv", b"\n\n", "is empty"),
        ("a.csv", b"", "is empty"),
        ("a.csv", b'a,b\n"1,2\n', "line 2 cannot be read"),
        ("a.csv", b"a,b\n", "holds nothing"),
        ("a.jsonl", b'{"a": 1}\n{"a": \n', "line 2 is not JSON"),
        ("a.jsonl", b'{"a": 1}\n[1]\n', "line 2 is list"),
        ("a.json", b"[1, 2]", "found a list of int"),
        ("a.json", b"{}", "found an empty dict"),
        ("a.parquet", b"PAR1 and nothing", "cannot be read as parquet"),
        ("a.arrow", b"ARROW1 and nothing", "cannot be read as arrow"),
        ("a.zip", b"PK\x03\x04 and nothing", "damaged or cut off"),
        ("a.npy", b"\x93NUMPY\x01\0", "no plain NumPy|not a plain NumPy"),
        ("a.csv.gz", b"\x1f\x8b\x08\0abc", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_clear_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        read_table(path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def labelled(names: list[str], labels: list[int]) -> datasets.Dataset:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names), "image": datasets.Image()}
    )
    pictures = [Image.new("L", (4, 4), i) for i in range(len(labels))]
    columns = {"text": [f"t{i}" for i in range(len(labels))], "label": labels, "image": pictures}
    return datasets.Dataset.from_dict(columns, features=features)


def test_hugging_face_datasets_keep_their_classes_and_splits(tmp_path: Path) -> None:
    train, other = labelled(["no", "yes"], [0, 1, 1]), labelled(["yes"], [0])
    table = read_table(train)
    assert table.classes == {"label": ("no", "yes")}
    assert not table.splits
    assert table.columns["image"][0]["bytes"].startswith(b"\x89PNG")  # still encoded
    joined = read_table(datasets.DatasetDict(train=train, dev=other))
    assert {split: list(found) for split, found in joined.splits.items()} == {"train": [0, 1, 2], "validation": [3]}
    assert [joined.classes["label"][n] for n in joined.columns["label"]] == ["no", "yes", "yes", "yes"]
    train.save_to_disk(tmp_path / "saved")
    assert rows(read_table(tmp_path / "saved")) == rows(table)
    with pytest.raises(DataError, match="parts are a, b, none of them a split"):
        read_table(datasets.DatasetDict(a=train, b=other))


def test_parquet_and_arrow_are_told_by_their_content(tmp_path: Path) -> None:
    made = labelled(["no", "yes"], [0, 1, 1])
    made.to_parquet(tmp_path / "data.bin")
    read = read_table(tmp_path / "data.bin")
    assert read.classes == {"label": ("no", "yes")}
    assert list(read.columns["label"]) == [0, 1, 1]
    made.save_to_disk(tmp_path / "saved")
    [arrow] = (tmp_path / "saved").glob("*.arrow")
    shutil.copy(arrow, tmp_path / "other")
    assert list(read_table(tmp_path / "other").columns["label"]) == [0, 1, 1]


def test_a_folder_is_read_as_load_dataset_does(tmp_path: Path) -> None:
    for name in ("data/train-00000-of-00002", "data/train-00001-of-00002", "data/test-00000-of-00001"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        labelled(["no", "yes"], [0, 1]).to_parquet(tmp_path / f"{name}.parquet")
    assert {split: len(found) for split, found in read_table(tmp_path).splits.items()} == {"test": 2, "train": 4}
    csvs = tmp_path / "csvs"
    csvs.mkdir()
    for name in ("reviews_train", "reviews_valid", "notes"):
        (csvs / f"{name}.csv").write_text(f"text\n{name}\n")
    read = read_table(csvs)
    assert {split: [read.columns["text"][i] for i in found] for split, found in read.splits.items()} == {
        "train": ["reviews_train"],
        "validation": ["reviews_valid"],
    }
    assert read.notes == ("not used: notes.csv, whose names speak of no split",)


class Map(Dataset[Any]):
    classes = ("no", "yes")

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((3, 4, 4), index / 6), index % 2


class Passing(IterableDataset[Any]):
    def __iter__(self) -> Iterator[dict[str, Any]]:
        return ({"text": f"text {i}", "label": i % 3} for i in range(40))


def own_collate(batch: list[Any]) -> Any:
    return default_collate(batch)


def test_torch_datasets_and_loaders_are_rows() -> None:
    for source in (Map(), DataLoader(Map(), batch_size=4), DataLoader(Map(), batch_size=4, collate_fn=own_collate)):
        read = read_table(source, kind="image")
        assert [int(label) for label in read.columns["label"]] == [0, 1] * 3
        assert read.classes == {"label": ("no", "yes")}
        assert float(read.columns["image"][3].mean()) == pytest.approx(0.5)
    part = random_split(Map(), [4, 2], torch.Generator().manual_seed(0))[0]
    assert read_table(part).classes == {"label": ("no", "yes")}


def test_what_can_only_be_gone_through_is_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = read_source(Passing())
    assert isinstance(stream, Stream)
    parts = [list(stream.rows(split, key=lambda row: row["text"])) for split in ("train", "validation")]
    assert all(parts)
    assert sorted(row["text"] for part in parts for row in part) == sorted(f"text {i}" for i in range(40))
    train = stream.shuffled(lambda: parts[0], seed=1, size=10)
    drawn = [next(train) for _ in range(len(parts[0]))]
    assert drawn != parts[0]
    assert sorted(row["text"] for row in drawn) == sorted(row["text"] for row in parts[0])
    assert len(read_table(Passing())) == 40
    assert len(read_table({"text": str(i)} for i in range(9))) == 9
    monkeypatch.setattr("zoo.data.objects.GATHERED", 5)
    with pytest.raises(DataError, match="more than 5 examples that pass by only once"):
        read_table({"text": str(i)} for i in range(9))


def test_iterable_datasets_of_hugging_face_are_streams_with_classes() -> None:
    whole = labelled(["no", "yes"], [0, 1, 1])
    stream = read_source(whole.to_iterable_dataset())
    assert isinstance(stream, Stream)
    assert stream.classes == {"label": ("no", "yes")}
    assert list(stream.columns) == ["text", "label", "image"]
    parts = datasets.IterableDatasetDict({"train": whole.to_iterable_dataset(), "test": whole.to_iterable_dataset()})
    assert {split: len(found) for split, found in read_table(parts).splits.items()} == {"train": 3, "test": 3}


@pytest.mark.parametrize(
    ("source", "columns"),
    [
        (["a", "b"], {"text": ["a", "b"]}),
        ([("a", 1), ("b", 0)], {"text": ["a", "b"], "label": [1, 0]}),
        ((["a", "b"], [1, 0]), {"text": ["a", "b"], "label": [1, 0]}),
        ([{"text": "a"}, {"text": "b"}], {"text": ["a", "b"]}),
        ({"text": ["a", "b"]}, {"text": ["a", "b"]}),
        ([[1, 2], [3]], {"input_ids": [[1, 2], [3]]}),
        ([[{"role": "user", "content": "a"}]], {"messages": [[{"role": "user", "content": "a"}]]}),
        (pd.DataFrame({"text": ["a", None]}), {"text": ["a", None]}),
        (zoo.Data(["a"]), {"text": ["a"]}),
    ],
)
def test_python_objects_are_rows(source: Any, columns: dict[str, Any]) -> None:
    assert {name: list(values) for name, values in read_table(source).columns.items()} == columns


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ([], "hold nothing"),
        (["a", ("b", 1)], "item 0 is a str and item 1 is a tuple of 2"),
        ([("a", 1), ("b", 1, 2)], "item 1 is a tuple of 3"),
        ({"text": ["a"], "label": [1, 2]}, "columns of one length"),
        ({"text": "a"}, "expected a list of values for 'text', got str"),
        (3, "expected a folder, a file, a dataset"),
        ("/nowhere/at/all", "found nothing of that name"),
        (torch.tensor(1.0), "of no dimension"),
    ],
)
def test_what_is_no_data_is_one_clear_line(source: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_table(source)


def picture(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8), shade).save(file, "PNG")
    return file.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def test_files_of_one_stem_in_a_tar_are_one_row(tmp_path: Path) -> None:
    for shard in range(2):
        with tarfile.open(tmp_path / f"shard-{shard}.tar", "w") as tar:
            for i in range(3):
                add(tar, f"00{i}.png", picture(i))
                add(tar, f"00{i}.cls", str(i + shard).encode())
                add(tar, f"00{i}.json", b'{"caption": "c"}')
                add(tar, f"00{i}.pkl", pickle.dumps([i]))
    assert list(read_table(tmp_path / "shard-1.tar").columns["label"]) == [1, 2, 3]
    read = read_table(tmp_path)
    assert list(read.columns["label"]) == [0, 1, 2, 1, 2, 3]
    assert set(read.columns) == {"image", "label", "caption"}
    assert [Image.open(path).getpixel((0, 0)) for path in read.columns["image"]] == [0, 1, 2] * 2


def test_archives_of_folders_are_read_as_folders_and_nothing_leaves_them(tmp_path: Path) -> None:
    for name in ("pets/train/cat/0.png", "pets/train/dog/1.png", "pets/val/dog/2.png"):
        path = tmp_path / "whole" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(len(name)))
    for kind in ("zip", "gztar"):
        read = read_table(shutil.make_archive(str(tmp_path / "pets"), kind, tmp_path / "whole"))
        assert [read.classes["label"][n] for n in read.columns["label"]] == ["cat", "dog", "dog"]
        assert {split: list(found) for split, found in read.splits.items()} == {"train": [0, 1], "validation": [2]}
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as zipped:
        zipped.writestr("../out.png", picture(0))
    with tarfile.open(tmp_path / "out.tar", "w") as tar:
        add(tar, "../../out.png", picture(0))
    with tarfile.open(tmp_path / "link.tar", "w") as tar:
        link = tarfile.TarInfo("a/0.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        add(tar, "a/1.png", picture(1))
    for name in ("out.zip", "out.tar"):
        with pytest.raises(DataError, match="leads outside"):
            read_table(tmp_path / name)
    assert len(read_table(tmp_path / "link.tar")) == 1


def test_arrays_in_files_are_columns(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((3, 8, 8), dtype=np.float32)
    np.savez(tmp_path / "a.npz", images=images, labels=[0, 1, 2])
    np.save(tmp_path / "a.npy", images)
    assert set(read_table(tmp_path / "a.npz").columns) == {"images", "labels"}
    assert (read_table(tmp_path / "a.npy").columns["image"] == images).all()
    np.save(tmp_path / "b.npy", np.array([{}], dtype=object))
    with pytest.raises(DataError, match="plain NumPy"):
        read_table(tmp_path / "b.npy")
