"""Text: its forms, its split, and what it refuses."""

from __future__ import annotations

import random
import string
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.data import named_texts
from zoo.data.paragraphs import same
from zoo.data.report import collecting
from zoo.data.text import LONGEST, beginning, given_texts, package_prose, text_data
from zoo.errors import DataError, ZooError

NAMES = ("text:english", "text:python", "text:licences")


def words(count: int) -> str:
    return " ".join("".join(random.choices(string.ascii_lowercase, k=random.randint(2, 9))) for _ in range(count))


def both(data: object) -> tuple[list[str], list[str]]:
    return text_data(data, split="train"), text_data(data, split="test")


@pytest.mark.parametrize("name", NAMES)
def test_a_named_text_has_two_disjoint_splits(name: str) -> None:
    train, test = both(name)
    assert len(test) > 10
    assert len(train) > 10 * len(test)
    keys = [" ".join(text.split()).lower() for text in train + test]
    assert len(set(keys)) == len(keys), "a paragraph occurs twice"


def test_english_reads_as_english() -> None:
    train = text_data("text:english")
    assert sum(map(len, train)) > 1_000_000
    assert text_data(None) == train
    assert not any(">>>" in text or "\n" in text for text in train)
    letters = sum(character.isalpha() or character == " " for text in train for character in text)
    assert letters > 0.92 * sum(map(len, train))
    assert any("exception" in text and text.endswith(".") for text in train)


def test_python_keeps_its_indentation() -> None:
    train = text_data("text:python")
    assert any("\n    " in text for text in train)
    assert any(text.startswith("def ") for text in train)


def test_licences_are_licences() -> None:
    train, test = both("text:licences")
    text = " ".join(train + test).lower()
    assert text.count("copyright") > 50
    assert "without warrant" in text


def test_the_same_text_in_another_process() -> None:
    code = "from zoo.data.text import text_data as t; import zlib; print(zlib.crc32(repr(t('text:licences')).encode()))"
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", code]
    first, second = (
        subprocess.run(command, check=True, capture_output=True, cwd=root, env={"PYTHONHASHSEED": seed}).stdout
        for seed in ("1", "2")
    )
    assert first == second


def test_a_file_and_a_folder(tmp_path: Path) -> None:
    paragraphs = [words(12) for _ in range(60)]
    (tmp_path / "a.txt").write_text("\n\n".join(paragraphs[:30]), encoding="utf-8")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.txt").write_text("\n \n".join(paragraphs[30:]) + "\n", encoding="utf-8")
    train, test = both(tmp_path)
    assert sorted(train + test) == sorted(paragraphs)
    assert train == [text for text in paragraphs if text in train], "the text's own order"
    assert both(str(tmp_path / "a.txt")) == both(paragraphs[:30])


def test_a_paragraph_has_one_split_wherever_it_stands() -> None:
    common = [words(10) for _ in range(200)]
    first, second = both(common + [words(9) for _ in range(100)]), both([words(8) for _ in range(100)] + common)
    held = [{text for text in test if text in common} for _, test in (first, second)]
    assert len(held[0] ^ held[1]) <= 6, "the order is the same, only where it is cut follows the size of all"


def test_equal_documents_are_all_used_and_in_one_split() -> None:
    documents = [words(10) for _ in range(40)]
    again = [text.upper().replace(" ", "\n") for text in documents]
    with collecting() as reports:
        train, test = both(documents + again)
    assert len(train) + len(test) == 80
    assert {same(text) for text in train}.isdisjoint(same(text) for text in test)
    assert "40 of 80 documents are equal to another: all are used, in one split" in reports[0].lines()


def test_a_dataset_and_windows_line_ends(tmp_path: Path) -> None:
    class Texts:
        def __len__(self) -> int:
            return 30

        def __getitem__(self, index: int) -> str:
            if index >= 30:
                raise IndexError
            return f"text number {index} of thirty, which says little but says it at some length"

    assert sum(map(len, both(Texts()))) == 30
    assert both([{"text": text, "label": 0} for text in Texts()]) == both(Texts())
    (tmp_path / "dos.txt").write_bytes("\ufeff".encode() + b"\r\n\r\n".join(words(30).encode() for _ in range(10)))
    assert sum(map(len, both(tmp_path / "dos.txt"))) == 10


@pytest.mark.parametrize(
    "text",
    ["\n".join(words(9) for _ in range(3000)), words(20_000), "x" * 30_000 + "\n"],
    ids=["lines", "one line", "one word"],  # the same in every process of pytest-xdist, which the texts are not
)
def test_a_text_without_blank_lines_has_two_splits(text: str) -> None:
    train, test = both([text])
    assert train
    assert test
    assert max(map(len, train + test)) <= LONGEST
    if " " in text:
        assert sorted(" ".join(train + test).split()) == sorted(text.split()), "no word is cut or lost"


def test_one_paragraph_lends_its_end() -> None:
    text = words(60)
    train, test = both([text])
    assert f"{train[0]} {test[0]}" == text
    assert len(test[0]) < len(train[0])


def test_two_documents_make_two_splits_by_their_characters() -> None:
    for _ in range(20):
        train, test = both([words(80), words(90)])
        held = sum(map(len, test)) / sum(map(len, train + test))
        assert 0.05 < held < 0.15


def test_a_title_and_an_essay_are_not_half_held_out() -> None:
    text = f"My essay about words and other things\n\n{words(400)}"
    train, test = both(text)
    assert train[0] == "My essay about words and other things"
    assert 0.05 < sum(map(len, test)) / len(text) < 0.15
    assert f"{train[1]} {test[0]}" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"short", "at least 200 characters"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "UTF-8"),
        (b"\0\0\0\0" * 200, "binary"),
    ],
)
def test_files_that_are_no_text(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "data.txt").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        text_data(tmp_path / "data.txt")
    assert "\n" not in str(caught.value)


def test_what_is_no_text_says_what_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Did you mean 'text:english'"):
        text_data("text:englsh")
    with pytest.raises(DataError, match="found nothing there"):
        text_data(tmp_path / "absent.txt")
    with pytest.raises(DataError, match="expected text files or tables"):
        text_data(tmp_path)
    with pytest.raises(DataError, match="item 1 is a int"):
        text_data([words(60), 7])
    with pytest.raises(DataError, match="int"):
        text_data(3)
    with pytest.raises(DataError, match="Did you mean 'test'"):
        text_data(None, split="tests")


def test_a_packages_prose(tmp_path: Path) -> None:
    prose = "This module reads the numbers that a user gives and adds them."
    (tmp_path / "good.py").write_text(f'"""{prose}\n\n>>> add(1, 2)\n3\n"""\nraise SystemExit("never run")\n')
    (tmp_path / "bad.py").write_text("this is not (Python")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "a.py").write_text('"""One sentence about tests that nobody is going to read today."""')
    more = [f"def f{index}():\n    '''{words(10)}.'''\n" for index in range(20)]
    (tmp_path / "more.py").write_text("\n".join(more))
    found = package_prose(tmp_path) + package_prose(tmp_path, split="test")
    assert len(found) == 21
    assert prose in found


def test_the_beginning_is_what_fits_and_at_least_one_paragraph() -> None:
    assert list(beginning(["abc", "de", "f"], 9)) == ["abc", "de"]
    assert list(beginning(["ä" * 50, "b"], 10)) == ["ä" * 50]
    assert list(beginning([], 10)) == []


def test_an_option_of_texts_is_one_or_several() -> None:
    assert given_texts({"prompt": None, "prompts": None}, "prompt", "prompts") is None
    assert given_texts({"prompt": "a", "prompts": None}, "prompt", "prompts") == ["a"]
    assert given_texts({"prompt": None, "prompts": ("a", "b")}, "prompt", "prompts") == ["a", "b"]
    for options, message in (
        ({"prompt": "a", "prompts": ["b"]}, "expected prompt or prompts, got both"),
        ({"prompt": None, "prompts": []}, "expected a string or a list of strings"),
        ({"prompt": 3, "prompts": None}, "expected a string or a list of strings"),
        ({"prompt": " ", "prompts": None}, "got an empty prompt"),
    ):
        with pytest.raises(ZooError, match=message):
            given_texts(options, "prompt", "prompts")


def test_documentation_is_english_and_the_docstrings_of_packages(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "toy_package").mkdir()
    line = "This sentence is the docstring of a toy package that nobody has installed anywhere."
    (tmp_path / "toy_package" / "__init__.py").write_text(f'"""{line}"""', encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(named_texts, "PACKAGES", ("toy_package", "no_such_package"))
    named_texts._documentation.cache_clear()
    try:
        train, test = both("text:documentation")
        english = both("text:english")
        assert {*train, *test} == {*english[0], *english[1], line}
        assert set(english[1]) <= set(test)  # held out is held out, whatever it stands in
    finally:
        named_texts._documentation.cache_clear()
