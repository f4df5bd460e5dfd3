"""`zoo data`: what data are read as."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from zoo.cli import main


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for i, name in enumerate("HHHKKK"):
        folder = tmp_path / "pets" / name
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (32, 32), 20 * i).save(folder / f"{i}.png")
    (tmp_path / "pets" / "H" / "broken.png").write_bytes(b"\x89PNG")
    return tmp_path / "pets"


def test_a_folder_is_reported_with_a_sheet(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", str(pets), "--out", str(pets.parent / "sheet.png")]) == 0
    out = capsys.readouterr().out
    assert "7 images: 6 used, 1 skipped (H/broken.png: it is no picture that Pillow reads)" in out
    assert "classes: H 3, K 3" in out
    with Image.open(pets.parent / "sheet.png") as sheet:
        assert sheet.size[0] > 64


def test_a_model_says_what_it_makes_of_data(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", str(pets), "--for", "ddpm", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["batch"]["images"] == "float32 [4, 1, 32, 32]"
    assert facts["reports"][0]["classes"] == {"H": 3, "K": 3}


def test_a_table_shows_its_first_rows_and_a_wrong_column_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "reviews.csv"
    path.write_text("id,review\n01,good\n02,bad\n")
    assert main(["data", str(path), "--column", "text=review"]) == 0
    out = capsys.readouterr().out
    assert "2 rows; columns: id, review" in out
    assert "id: 01 | review: good" in out
    assert main(["data", str(path), "--column", "text=rview"]) == 1
    assert "Did you mean 'review'?" in capsys.readouterr().err
    assert main(["data", str(path), "--column", "text"]) == 2
