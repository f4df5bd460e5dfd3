"""The command `zoo data`, `--column`, and `--classes auto` of pictures."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from PIL import Image

from zoo.cli import main
from zoo.cli.options import with_classes, with_columns


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        (tmp_path / "some" / name).mkdir(parents=True)
        for i in range(7):
            Image.new("RGB", (20, 20), (i * 30, 9, 100 * (name == "cat"))).save(tmp_path / "some" / name / f"{i}.png")
    (tmp_path / "some" / "cat" / "b.png").write_bytes(b"\x89PNG")
    return tmp_path / "some"


def test_what_was_taken_and_left_is_shown(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", str(pictures), "--out", str(tmp_path / "sheet.png")]) == 0
    shown = capsys.readouterr().out
    assert "15 images: 14 used, 1 skipped (cat/b.png: it is no picture that Pillow reads)" in shown
    assert "classes: cat 7, dog 7" in shown
    assert "splits: train 13, test 1" in shown
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 64
    assert main(["data", str(pictures), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reports"][0]["classes"] == {"cat": 7, "dog": 7}
    assert main(["data", str(pictures), "--for", "ddpm"]) == 1  # of A to Z
    assert "cat, dog" in capsys.readouterr().err


def test_tables_show_their_columns_and_first_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.csv").write_text("review,stars\n" + "\n".join(f"text {i},{i % 2}" for i in range(9)))
    assert main(["data", str(tmp_path / "r.csv")]) == 0
    shown = capsys.readouterr().out
    assert "columns: review, stars" in shown
    assert "text 2 · 0" in shown
    assert main(["data", str(tmp_path / "nothing")]) == 1


def test_columns_by_name_and_classes_of_pictures(pictures: Path) -> None:
    assert with_columns("r.csv", ()) == "r.csv"
    assert with_columns("r.csv", ("text=review", "label=stars")).columns == {"text": "review", "label": "stars"}
    with pytest.raises(click.BadParameter, match="KEY=NAME"):
        with_columns("r.csv", ("review",))
    assert with_classes({"classes": "auto"}, str(pictures))["classes"] == ["cat", "dog"]
