"""Files that anybody may have made: nothing hangs, starts a program, fills the memory or leads outside."""

from __future__ import annotations

import gzip
import io
import json
import os
import socket
import struct
import tarfile
import tempfile
import time
import zipfile
import zlib
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import ipc, parquet

import zoo
from zoo import Data, DataError
from zoo.bounded.regular import check_folder, open_regular
from zoo.data import limits, pictures
from zoo.data.corpus import read_corpus
from zoo.data.images import image_data
from zoo.data.report import collecting
from zoo.data.sources import read_table
from zoo.errors import CheckpointError

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def png(shade: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8), shade).save(file, "PNG")
    return file.getvalue()


def png_of(width: int, height: int, *more: tuple[bytes, bytes]) -> bytes:
    """A PNG with this size in its header, whatever it holds."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), *more, (b"IDAT", zlib.compress(bytes(72))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def odd(path: Path, kind: str) -> Path:
    """Make what is no regular file."""
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a socket":
        with tempfile.TemporaryDirectory(dir="/tmp") as short, socket.socket(socket.AF_UNIX) as made:
            made.bind(f"{short}/s")  # a socket's path may have 107 characters
            Path(short, "s").rename(path)
    else:
        path.symlink_to({"a device": "/dev/zero", "a broken link": path.name}[kind])
    return path


ODD = ("a named pipe", "a socket", "a device", "a broken link")


def shades(source: object) -> tuple[list[int], str]:
    """The shade of each picture that is used, and what is said of the others."""
    with collecting() as reports:
        images, _ = image_data(Data(source, split="all"), size=8, channels=1, split="test")
    return [round(float(one.mean() / 2 + 0.5) * 255) for one in images], " ".join(reports[0].lines())


# Pictures


def test_pictures_of_other_formats_or_beyond_the_limits_are_left_out_and_said(tmp_path, monkeypatch):
    started = tmp_path / "bin" / "started"
    started.parent.mkdir()
    for tool in ("gs", "gswin64c", "gswin32c"):
        (started.parent / tool).write_text(f"#!/bin/sh\ntouch {started}\nexit 1\n")
        (started.parent / tool).chmod(0o755)
    monkeypatch.setenv("PATH", str(started.parent), prepend=os.pathsep)
    root = tmp_path / "root"
    root.mkdir()
    zeros = zlib.compress(bytes(2 << 20))
    text = (b"zTXt", b"k\0\0" + zeros)
    (root / "a.png").write_bytes(png(10))
    for name, raw in {
        "eps.png": EPS,
        "wmf.png": b"\xd7\xcd\xc6\x9a" + bytes(100),
        "large.png": png_of(50_000, 50_000),
        "text.png": png_of(8, 8, text),
        "icc.png": png_of(8, 8, (b"iCCP", b"k\0\0" + zeros)),
        "scans.jpg": b"\xff\xd8" + b"\xff\xda\0\x02" * 200,
    }.items():
        (root / name).write_bytes(raw)
    with (root / "sparse.png").open("wb") as file:
        file.write(png()[:8])
        file.truncate(1 << 36)
    found, said = shades(root)
    assert [shade for shade in found if shade] == [10]
    assert not started.exists()
    assert "eps.png: it is no picture" in said
    with pytest.raises(DataError, match=r"more than 89,478,485 pixels in a picture: .*ZOO_MAX_PIXELS"):
        shades(root / "large.png")
    (root / "large.png").write_bytes(png_of(10_000, 10_000))
    with pytest.raises(DataError, match=r"100,000,000 pixels in a picture, more than 89,478,485: .*ZOO_MAX_PIXELS"):
        shades(root / "large.png")
    with pytest.raises(DataError, match=r"68,719,476,736 bytes in the file of a picture, .*ZOO_MAX_PICTURE_BYTES"):
        shades(root / "sparse.png")
    with pytest.raises(DataError, match="more than 100 scans"):
        shades(root / "scans.jpg")
    with pytest.raises(DataError, match="no picture that can be read"):
        shades(root / "eps.png")
    with pytest.raises(DataError, match="not an image that Pillow can read"):
        pictures.open_image(EPS)


def test_a_limit_is_a_variable(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(png(7))
    monkeypatch.setenv("ZOO_MAX_PIXELS", "63")
    with pytest.raises(DataError, match="64 pixels in a picture, more than 63"):
        pictures.open_image(tmp_path / "a.png")
    monkeypatch.setenv("ZOO_MAX_PIXELS", "many")
    with pytest.raises(DataError, match="ZOO_MAX_PIXELS: expected a whole number of pixels in a picture, got 'many'"):
        pictures.open_image(tmp_path / "a.png")
    documented = (Path(zoo.__file__).parents[1] / "docs/data.md").read_text(encoding="utf-8")
    for limit in limits.ALL:
        assert f"`{limit.variable}`" in documented
    named = documented.lower().replace(" ", "")
    assert all(kind.lower() in named for kind in pictures.FORMATS)


def test_many_frames_are_not_counted(tmp_path):
    file = io.BytesIO()
    Image.new("P", (1, 1)).save(file, "GIF")
    raw = file.getvalue()
    head, frame = raw[: raw.index(b",")], raw[raw.index(b",") : -1]
    (tmp_path / "a.gif").write_bytes(head + frame * 200_000 + b";")
    begin = time.monotonic()
    assert shades(tmp_path)[0] == [0]
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize("outside", ["../private/p.png", "{}/p.png", "/etc/passwd", "http://127.0.0.1:9/p.png", "a\0b"])
def test_a_table_names_pictures_below_its_folder(tmp_path, monkeypatch, outside):
    private, root = tmp_path / "private", tmp_path / "root"
    private.mkdir()
    root.mkdir()
    (private / "p.png").write_bytes(png(77))
    (root / "a.png").write_bytes(png(10))
    name = outside.format(private)
    table = pa.table({"image": [{"bytes": None, "path": "a.png"}, {"bytes": None, "path": name}]})
    parquet.write_table(table, root / "b.parquet")
    (root / "b.jsonl").write_text("".join(json.dumps({"image": one}) + "\n" for one in ("a.png", name)))
    for file in ("b.parquet", "b.jsonl"):
        found, said = shades(root / file)
        assert found == [10]
        assert "skipped" in said
    if "p.png" in name and "http" not in name:
        assert f"lies outside of {root}" in said
        monkeypatch.setenv("ZOO_DATA_FOLDERS", f"{tmp_path / 'none'}{os.pathsep}{private}")
        assert shades(root / "b.jsonl")[0] == [10, 77]
        (root / "link").symlink_to(private)  # a link is its owner's
        (root / "c.jsonl").write_text('{"image": "link/p.png"}\n')
        monkeypatch.delenv("ZOO_DATA_FOLDERS")
        assert shades(root / "c.jsonl")[0] == [77]
    assert shades([{"image": str(private / "p.png")}])[0] == [77]  # of the program's own


def test_sounds_and_nested_pictures_of_a_stranger_stay_closed(tmp_path):
    kinds = {"text": datasets.Value("string"), "sound": datasets.Audio(), "all": datasets.List(datasets.Image())}
    far = {"bytes": None, "path": "http://127.0.0.1:9/x"}
    rows = {"text": ["hello " * 50] * 2, "sound": [far] * 2, "all": [[far]] * 2}
    info = {"info": {"features": datasets.Features(kinds).to_dict()}}
    table = pa.table(rows).replace_schema_metadata({"huggingface": json.dumps(info)})
    parquet.write_table(table, tmp_path / "a.parquet")
    read = read_table(tmp_path / "a.parquet")
    assert read.columns["sound"][0] == far
    assert read.columns["all"][0] == [far]


# What is no regular file


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_regular_file_is_passed_over_and_said(tmp_path, kind):
    (tmp_path / "a.png").write_bytes(png(10))
    path = odd(tmp_path / "b.png", kind)
    found, said = shades(tmp_path)
    assert found == [10]
    assert f"b.png: it is {kind}" in said
    (tmp_path / "c.csv").write_text("image\na.png\nb.png\n")
    assert shades(tmp_path / "c.csv")[0] == [10]
    with pytest.raises(DataError, match=f"is {kind}" if kind != "a broken link" else "cannot be read|nothing of that"):
        read_table(path)
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("some words " * 40)
    odd(texts / "b.txt", kind)
    odd(texts / "c.csv", kind)
    odd(texts / "state.json", kind)
    assert len(read_corpus(texts, split="train").items) == 1
    saved = tmp_path / "saved"
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(saved)
    next(saved.glob("*.arrow")).unlink()
    odd(saved / "data-00000-of-00001.arrow", kind)
    with pytest.raises(DataError, match=r"saved.*data-00000-of-00001\.arrow"):
        read_table(saved)


@pytest.mark.parametrize("kind", ODD[:3])
def test_folders_of_models_and_adapters_have_none(tmp_path, kind):
    odd(tmp_path / "tokenizer.json", kind)
    with pytest.raises(OSError, match=f"{kind}|No such device"):
        open_regular(tmp_path / "tokenizer.json")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    for ask in (lambda: zoo.load(str(tmp_path)), lambda: zoo.load("gat", weights=str(tmp_path))):
        with pytest.raises(CheckpointError, match=f"tokenizer.json is {kind}, .*: remove it"):
            ask()
    (tmp_path / "config.json").unlink()
    (tmp_path / "adapter_config.json").write_text("{}")
    for ask in (lambda: zoo.load(str(tmp_path)), lambda: zoo.load("gat", lora=str(tmp_path))):
        with pytest.raises(zoo.ZooError, match=f"tokenizer.json is {kind}"):
            ask()
    (tmp_path / "tokenizer.json").rename(tmp_path / ".hidden")
    check_folder(tmp_path, CheckpointError)


# Archives, arrays and tables


def header(*shape: int, kind: str = "|u1", data: bytes = b"x" * 64) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
    return file.getvalue() + data


@pytest.mark.parametrize(
    "raw",
    [
        header(10**6, 100, 1000),
        header(10**15),
        header(-1, 8),
        header(10**15, 0),
        header(10**12, kind="|S0", data=b""),
        header(4, kind="|O"),
        header(),
        b"\x93NUMPY\x01\x00" + struct.pack("<H", 5000) + b"(" * 5000,
        b"\x93NUMPY\x03\x00" + bytes(20),
        b"\x93NUMPY",
    ],
)
def test_arrays_whose_header_lies(tmp_path, raw):
    (tmp_path / "a.npy").write_bytes(raw)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as zipped:
        zipped.writestr("images.npy", raw)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(DataError, match=name):
            read_table(tmp_path / name)


def members(path: Path, *sizes: int, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method, compresslevel=1) as zipped:
        for number, size in enumerate(sizes):
            zipped.writestr(f"{number}.txt", bytes(size))
    return path


def test_archives_beyond_the_limits(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "FREE", 1 << 20)
    with pytest.raises(DataError, match=r"would be 4,194,304 bytes when it is unpacked, .*ZOO_MAX_UNPACKED_BYTES"):
        read_table(members(tmp_path / "a.zip", 2 << 20, 2 << 20))
    with pytest.raises(DataError, match="another method than deflate"):
        read_table(members(tmp_path / "b.zip", 10, method=zipfile.ZIP_BZIP2))
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("images.npy", header(4, 1 << 20, data=bytes(4 << 20)))
    with pytest.raises(DataError, match="would be 4,194,432"):
        read_table(tmp_path / "a.npz")
    for name, kind in (("c.tar.gz", tarfile.REGTYPE), ("d.tar.gz", tarfile.XHDTYPE)):
        info = tarfile.TarInfo("a.png")
        info.size, info.type = (4 << 20) if kind == tarfile.REGTYPE else 1 << 30, kind
        with gzip.open(tmp_path / name, "wb", 1) as file:
            file.write(info.tobuf() + bytes(4 << 20))
        with pytest.raises(DataError, match=r"when it is unpacked|has a part of 1073741824 bytes"):
            read_table(tmp_path / name)
    with gzip.open(tmp_path / "e.csv.gz", "wb") as file:
        file.write(b"text,label\n" + b"hello,1\n" * (1 << 17))
    with pytest.raises(DataError, match=r"e\.csv\.gz: unpacks to .* bytes when it is unpacked, more than 1,048,576"):
        read_table(tmp_path / "e.csv.gz")
    monkeypatch.setenv("ZOO_MAX_UNPACKED_BYTES", str(1 << 24))
    assert len(read_table(tmp_path / "e.csv.gz")) == 1 << 17
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("1.txt", bytes(9 << 20))
        zipped.writestr("1.cls", "0")
    with zipfile.ZipFile(tmp_path / "f.zip", "w") as zipped:
        for number in range(2):
            zipped.writestr(f"{number}.zip", inner.getvalue())
    with pytest.raises(DataError, match=r"archives hold 18,874,370 bytes|zero bytes|binary"):
        read_table(tmp_path / "f.zip")
    monkeypatch.setenv("ZOO_MAX_ENTRIES", "2")
    with pytest.raises(DataError, match="holds 3 entries in an archive, more than 2"):
        read_table(members(tmp_path / "g.zip", 1, 1, 1))


def test_tables_beyond_the_limits(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "FREE", 1 << 20)
    long = pa.DictionaryArray.from_arrays(pa.array(np.zeros(200, np.int32)), pa.array(["x" * 100_000]))
    parquet.write_table(pa.table({"text": long}), tmp_path / "long.parquet", compression="zstd")
    parquet.write_table(pa.table({"text": long.cast(pa.string())}), tmp_path / "plain.parquet", compression="zstd")
    parquet.write_table(pa.table({"n": np.zeros(10**6, np.int64)}), tmp_path / "n.parquet", compression="zstd")
    zeros = pa.table({"n": np.zeros(10**6, np.int64)})
    for name, new in (("file", ipc.new_file), ("stream", ipc.new_stream)):
        with new(tmp_path / f"{name}.arrow", zeros.schema, options=ipc.IpcWriteOptions(compression="zstd")) as file:
            file.write_table(zeros)
    for name in ("long.parquet", "plain.parquet", "n.parquet", "file.arrow", "stream.arrow"):
        with pytest.raises(DataError, match=r"would be .* bytes when it is unpacked"):
            read_table(tmp_path / name)
    monkeypatch.setenv("ZOO_MAX_UNPACKED_BYTES", str(1 << 26))
    assert [len(read_table(tmp_path / name)) for name in ("plain.parquet", "file.arrow")] == [200, 10**6]
    monkeypatch.setenv("ZOO_MAX_LINE_BYTES", "1000")
    (tmp_path / "a.csv").write_text("text,label\n" + "x" * 2000 + ",1\n")
    (tmp_path / "b.csv").write_text('text,label\n"' + "x\n" * 2000 + '",1\n')
    monkeypatch.setattr("zoo.data.textfiles.IN_MEMORY", 100)
    (tmp_path / "a.jsonl").write_text('{"text": "' + "x" * 2000 + '"}\n')
    for name in ("a.csv", "b.csv", "a.jsonl"):
        with pytest.raises(DataError, match=r"more than 1,000|field larger than"):
            read_table(tmp_path / name)
    for name, text in (
        ("deep.json", "[" * 100_000),
        ("deep.jsonl", '{"text":' * 100_000),
        ("deep.dat", '{"a":' * 9000),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError):
            read_table(tmp_path / name)
    with (tmp_path / "sparse.txt").open("wb") as file:
        file.truncate(1 << 36)
    with pytest.raises(DataError, match="a binary one"):
        read_table(tmp_path / "sparse.txt")
