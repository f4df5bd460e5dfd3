"""`zoo tune --classes`, `--task`, `--image-size` and `--channels`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import zoo
from zoo.cli import main
from zoo.loading import run_files


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    for name in ("good", "bad"):
        (tmp_path / "reviews" / name).mkdir(parents=True)
        for at in range(12):
            text = f"it is {'' if name == 'good' else 'not '}the value number {at} of the file"
            (tmp_path / "reviews" / name / f"{at}.txt").write_text(text)
    return tmp_path / "reviews"


def test_classes_as_the_data_name_them(reviews: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["tune", "bert", "--data", str(reviews), "--classes", "auto", "--steps", "2", "--batch-size", "4"]
    assert main([*words, "--device", "cpu"]) == 0
    saved = capsys.readouterr().out.strip()
    record = json.loads((Path(saved) / "zoo.json").read_text())
    assert record["base"]["head"] == {
        "task": "classify",
        "classes": ["bad", "good"],
        "image_size": None,
        "channels": None,
    }
    assert main(["sample", "bert", "--lora", saved, "-o", "text=it is the value", "--device", "cpu"]) == 0
    assert "good" in capsys.readouterr().out
    assert main(["info", f"./{saved}"]) == 0
    assert "bad, good" in capsys.readouterr().out


def test_classes_of_pictures_and_of_words(tmp_path: Path) -> None:
    from PIL import Image

    from zoo.runs.arguments import with_classes

    for name in ("cat", "dog"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for at in range(2):
            Image.effect_noise((9, 9), 30).save(tmp_path / "pictures" / name / f"{at}.png")
    assert with_classes({"classes": "auto"}, str(tmp_path / "pictures")) == {"classes": ["cat", "dog"]}
    rows = [{"tokens": ["Ada", str(at)], "tags": ["B-PER", "O"]} for at in range(3)]
    (tmp_path / "words.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = {"classes": "auto", "task": "tokens"}
    assert with_classes(asked, str(tmp_path / "words.jsonl"))["classes"] == ["B-PER", "O"]
    assert with_classes({"classes": 3}, None) == {"classes": 3}


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["--classes", "bad, good"], {"classes": ["bad", "good"]}),
        (["--classes", "3", "--task", "multilabel"], {"classes": 3, "task": "multilabel"}),
        (["--task", "regress"], {"task": "regress"}),
        (["--image-size", "48x64", "--channels", "3"], {"image_size": (48, 64), "channels": 3}),
        (["--image-size", "48"], {"image_size": 48}),
    ],
)
def test_the_options_are_arguments_of_load(words: list[str], asked: dict, monkeypatch) -> None:
    class Loaded(Exception):
        pass

    def load(name, **options):
        given = {key: options.get(key) for key in ("classes", "task", "image_size", "channels")}
        assert {key: value for key, value in given.items() if value is not None} == asked
        raise zoo.ZooError("enough")

    monkeypatch.setattr(run_files, "load", load)
    assert main(["tune", "vit", *words]) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--classes", "a,,b"], "an empty name"),
        (["--classes", "auto"], "give --data"),
        (["--task", "clasify"], "is not one of"),
        (["--image-size", "4x4x4"], "HEIGHTxWIDTH"),
        (["--image-size", "wide"], "HEIGHTxWIDTH"),
    ],
)
def test_what_cannot_be(words: list[str], said: str, capsys) -> None:
    assert main(["tune", "vit", *words]) == 2
    assert said in capsys.readouterr().err
