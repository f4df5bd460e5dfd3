"""JSON, TOML and YAML from strangers: hostile ones are one clear error, at once; what libraries write is read."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from zoo.bounded import text
from zoo.bounded.json_text import json_value, parse_json, read_json, read_object
from zoo.bounded.toml_text import read_toml
from zoo.bounded.yaml_text import yaml_value
from zoo.errors import CheckpointError, RegistryError, ZooError

DIGITS = "9" * 100_000
JSON = {
    "deep objects": '{"a":' * 3000 + "1" + "}" * 3000,
    "deep lists": "[" * 100_000 + "]" * 100_000,
    "as deep as the parser goes": "[" * 400 + "]" * 400,
    "many values": "[" + "[]," * 1_200_000 + "1]",
    "many digits": DIGITS,
    "digits that Python reads": "9" * 4000,
    "half a character": '"\\ud800"',
    "no UTF-8": b'"\xff"',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "NUL": b'"\0"',
    "empty": "",
}
TOML = {
    "lists": "a=" + "[" * 100_000,
    "tables": "a=" + "{a=" * 100_000,
    "a key": "a." * 50_000 + "a=1",
    "a name": "[" + "a." * 50_000 + "a]",
    "digits": f"a={DIGITS}",
    "hexadecimal digits": "a=0x" + "f" * 700,
    "long": "#" * (2 << 20),
    "no UTF-8": b"a='\xff'",
    "no TOML": "a=",
}
YAML = {
    "lists": "a: " + "[" * 20_000,
    "blocks": "- " * 20_000,
    "aliases of aliases": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)),
    "merged": "a: &a {}\nb: {<<: [" + ",".join(["*a"] * 2000) + "]}",
    "code": "a: !!python/object/apply:os.system ['true']",
    "digits": f"a: {DIGITS}",
    "base 60": "a: " + ":".join(["59"] * 30_000),
    "long": "a: " + "x" * (2 << 20),
    "no date": "a: 9999-99-99",
}


@pytest.mark.parametrize("content", JSON.values(), ids=JSON)
def test_hostile_json_is_an_error_at_once(content: str | bytes) -> None:
    began = time.process_time()
    with pytest.raises(CheckpointError, match=r"^it: damaged, expected ") as caught:
        parse_json(content, "it")
    assert time.process_time() - began < 2
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("content", TOML.values(), ids=TOML)
def test_hostile_toml_is_an_error_at_once(tmp_path: Path, content: str | bytes) -> None:
    (tmp_path / "x.toml").write_bytes(content.encode() if isinstance(content, str) else content)
    began = time.process_time()
    with pytest.raises(RegistryError, match=r"x\.toml"):
        read_toml(tmp_path / "x.toml", error=RegistryError)
    assert time.process_time() - began < 2


@pytest.mark.parametrize("content", YAML.values(), ids=YAML)
def test_hostile_yaml_is_an_error_at_once(content: str) -> None:
    began = time.process_time()
    with pytest.raises(ValueError, match=r"\w"):
        yaml_value(content)
    assert time.process_time() - began < 5


def test_what_libraries_write_is_read(tmp_path: Path) -> None:
    written = {
        "eos": [1, 2],
        "model_max_length": int(1e30),
        "limit": float("inf"),
        "text": "é😀[[[{{{",
        "deep": [[[[1]]]],
    }
    (tmp_path / "x.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(written).encode())
    assert read_json(tmp_path / "x.json") == read_object(tmp_path / "x.json") == written
    assert json_value('{"a": 1, "a": 2}') == {"a": 2}  # as every library reads it
    with pytest.raises(CheckpointError, match="Infinity is no number"):
        read_json(tmp_path / "x.json", strict=True)
    (tmp_path / "x.toml").write_text('[a]\nb = "[[[[ {{{{ a.b.c"  # [[[[\nc = [0.1, 0.2]\nd.e = """\n[[["""\n')
    assert read_toml(tmp_path / "x.toml", error=RegistryError)["a"]["c"] == [0.1, 0.2]
    assert yaml_value("tags: [a, &b c, *b]\nscore: 1.5\nlong: " + "word " * 100)["tags"] == ["a", "c", "c"]


def test_only_regular_files_of_some_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_text("1" * 100)
    for name, why in (
        ("pipe", "a named pipe"),
        (".", "cannot be read|a folder"),
        ("long", "longer than 50 bytes"),
    ):
        with pytest.raises(CheckpointError, match=why):
            text.read_text(tmp_path / name, limit=50, error=CheckpointError)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "absent")


def test_an_error_is_printable_and_short_whoever_wrote_what_it_quotes() -> None:
    evil = "\x1b]0;x\x07\x9b2J\r\u202e\ud800"
    shown = str(ZooError(evil + "é\u200d\n\t" + "x" * 100_000))
    assert shown.startswith(r"\x1b]0;x\x07\x9b2J\r\u202e\ud800é" + "\u200d\n\t")
    assert len(shown) < 5000
