"""Documents: split by size, cut where one is too large, equal ones together; what a table of texts becomes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

import zoo
from zoo import DataError
from zoo.data.corpus import CONVERSATIONS, DOCUMENTS, PAIRS, PROSE, TOKEN_ROWS, read_corpus
from zoo.data.documents import Document, split_documents
from zoo.data.paragraphs import cut_near, same
from zoo.data.report import collecting
from zoo.data.spec import Data
from zoo.data.table import Table


def words(draw: random.Random, count: int) -> str:
    return " ".join("".join(draw.choices("abcdefghij", k=draw.randint(2, 9))) for _ in range(count))


def texts_of(parts: Any, split: str) -> list[str]:
    return [document.text for document in parts.parts[split]]


@pytest.mark.parametrize("seed", range(8))
def test_a_tenth_of_the_characters_is_held_out_and_nothing_is_lost(seed: int) -> None:
    """Of one document or many, of equal or of unequal sizes, with paragraphs or without."""
    draw = random.Random(seed)
    count = draw.choice([1, 2, 3, 10, 40])
    texts = []
    for _ in range(count):
        blocks = [words(draw, draw.randint(5, 400)) for _ in range(draw.choice([1, 1, 8]))]
        texts.append("\n\n".join(blocks))
    found = split_documents(texts, Data(texts, seed=seed))
    train, test = texts_of(found, "train"), texts_of(found, "test")
    size = sum(map(len, train + test))
    assert 0.03 < sum(map(len, test)) / size < 0.22
    assert sorted(" ".join(train + test).split()) == sorted(" ".join(texts).split())
    whole = [document.text for part in found.parts.values() for document in part if document.whole]
    assert set(whole) <= set(texts)


@pytest.mark.parametrize("seed", range(5))
def test_ten_documents_are_in_one_split_each_whatever_their_order(seed: int) -> None:
    draw = random.Random(seed)
    texts = [words(draw, draw.randint(70, 90)) for _ in range(10)]
    found = split_documents(texts, Data(texts))
    assert not found.cut
    assert len(texts_of(found, "test")) == 1
    assert set(texts_of(found, "train")).isdisjoint(texts_of(found, "test"))
    mixed = draw.sample(texts, 10)
    assert set(texts_of(split_documents(mixed, Data(mixed)), "test")) == set(texts_of(found, "test"))


def test_equal_paragraphs_of_a_document_that_is_cut_are_in_one_split() -> None:
    draw = random.Random(0)
    blocks = [words(draw, 12) for _ in range(30)]
    found = split_documents(["\n\n".join(blocks * 3)], Data(None))
    held = {same(block) for text in texts_of(found, "test") for block in text.split("\n\n")}
    kept = {same(block) for text in texts_of(found, "train") for block in text.split("\n\n")}
    assert held
    assert held.isdisjoint(kept)


def test_the_end_of_a_document_is_where_its_last_part_is() -> None:
    draw = random.Random(1)
    found = split_documents([f"A title\n\n{words(draw, 400)}"], Data(None))
    assert [document.ends for document in found.parts["train"]] == [False]
    assert [document.ends for document in found.parts["test"]] == [True]
    assert Document("a").ends


def test_a_text_is_cut_behind_a_sentence_or_a_word() -> None:
    text = "The first sentence is here. The second one is there. And a third."
    assert text[: cut_near(text, 30)] == "The first sentence is here. "
    assert text[: cut_near("no sentence ends in this text", 13)].split()
    assert cut_near("x" * 100, 90) == 90
    assert 0 < cut_near("ab", 5) < 2


def test_groups_stay_together_and_no_document_is_cut() -> None:
    draw = random.Random(2)
    rows = {"text": [words(draw, 30) for _ in range(60)], "author": [f"author {at % 12}" for at in range(60)]}
    found = read_corpus(zoo.Data(rows, group="author"), split="test")
    held = {author for text, author in zip(*rows.values(), strict=True) if text in {d.text for d in found.items}}
    kept = read_corpus(zoo.Data(rows, group="author"), split="train")
    assert held
    assert held.isdisjoint(a for t, a in zip(*rows.values(), strict=True) if t in {d.text for d in kept.items})


def test_the_datas_own_splits_count() -> None:
    table = Table({"text": ["one", "two", "three"]}, "t", splits={"train": [0, 1], "validation": [2]})
    assert [document.text for document in read_corpus(table, split="test").items] == ["three"]
    assert [document.text for document in read_corpus(zoo.Data(table, split="all"), split="test").items] == [
        "one",
        "two",
        "three",
    ]


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        ({"Text": ["a", "b"], "stars": [1, 2]}, DOCUMENTS),
        ({"id": [1, 2], "conversations": [[{"from": "gpt", "value": "a"}]] * 2}, CONVERSATIONS),
        ({"instruction": ["a", "b"], "output": ["c", "d"]}, PAIRS),
        ({"input_ids": [[1, 2], [3, 4]]}, TOKEN_ROWS),
    ],
)
def test_a_table_is_what_its_columns_are(columns: dict[str, Any], kind: str) -> None:
    assert read_corpus(zoo.Data(columns, split="all"), split="train").kind == kind


def test_the_user_says_what_the_columns_are() -> None:
    rows = {"q": [f"ask {at}" for at in range(20)], "a": [f"say {at}" for at in range(20)], "text": ["x"] * 20}
    found = read_corpus(zoo.Data(rows, columns={"prompt": "q", "completion": "a"}), split="train")
    assert found.kind == PAIRS
    assert all(prompt.replace("ask", "say") == completion for prompt, completion in found.items)
    assert found.report.unused == ("text",)
    with pytest.raises(DataError, match=r"found no column of the texts; its columns are q, a"):
        read_corpus({"q": ["a"], "a": ["b"]}, split="train")


def test_rows_without_text_are_skipped_and_said() -> None:
    rows = {"text": ["one", "", None, "  ", "two"]}
    found = read_corpus(zoo.Data(rows, split="all"), split="train")
    assert [document.text for document in found.items] == ["one", "two"]
    assert found.report.skipped == tuple((f"row {row}", "it has no text") for row in (1, 2, 3))
    with pytest.raises(DataError, match="row 1 cannot be used, it has no text"):
        read_corpus(zoo.Data(rows, broken="refuse"), split="train")
    with pytest.raises(DataError, match="row 0 has int in 'text'"):
        read_corpus({"text": [3, 4]}, split="train")


def test_a_jsonl_is_never_prose(tmp_path: Path) -> None:
    from zoo.data.text import text_data

    rows = [{"id": at, "text": f"text number {at} of the file"} for at in range(40)]
    for name in ("d.jsonl", "d.txt", "d"):
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
        assert text_data(tmp_path / name)[0] == "text number 0 of the file"
    (tmp_path / "numbers.csv").write_text("a,b\n1,2\n3,4\n")
    with pytest.raises(DataError, match="found no column of the texts; its columns are a, b"):
        text_data(tmp_path / "numbers.csv")


def test_a_folder_is_its_text_files_whatever_their_names(tmp_path: Path) -> None:
    draw = random.Random(3)
    (tmp_path / "deep" / ".git").mkdir(parents=True)
    texts = {name: words(draw, 40) for name in ("a.txt", "b.md", "deep/c.tex", "deep/LICENSE")}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    (tmp_path / "photo").write_bytes(bytes(range(256)))
    (tmp_path / "deep" / ".git" / "HEAD").write_text("hidden")
    found = read_corpus(zoo.Data(tmp_path, split="all"), split="train")
    assert found.kind == DOCUMENTS
    assert {document.text for document in found.items} == set(texts.values())
    why = dict(found.report.skipped)
    assert why["empty.txt"] == "it is empty"
    assert why["photo"] == "it is no text"
    assert "UTF-8" in why["latin.txt"]
    assert any(name.startswith("deep/.git") for name in why)
    with pytest.raises(DataError, match=r"latin\.txt: expected UTF-8"):
        read_corpus(zoo.Data(tmp_path, broken="refuse"), split="train")
    (tmp_path / "rows.csv").write_text("text\nabc\n")
    with pytest.raises(DataError, match=r"holds tables, such as rows.csv, and text files"):
        read_corpus(tmp_path, split="train")


def test_one_text_is_prose_and_a_kind_that_a_model_lacks_is_refused(tmp_path: Path) -> None:
    text = words(random.Random(4), 100)
    (tmp_path / "a.md").write_text(text)
    assert read_corpus(tmp_path / "a.md", split="train").kind == PROSE
    assert read_corpus(f"{text}\n", split="train").kind == PROSE
    assert read_corpus("text:licences", split="test").kind == PROSE
    with pytest.raises(DataError, match="holds pairs; the model learns from prose, documents"):
        read_corpus({"prompt": ["a"], "completion": ["b"]}, split="train", kinds=(PROSE, DOCUMENTS))


def test_the_report_says_what_was_served() -> None:
    from zoo.data.text import text_data

    draw = random.Random(5)
    texts = [words(draw, 30) for _ in range(30)]
    with collecting() as reports:
        text_data(texts, split="test")
        text_data(texts, split="train")
    assert [report.served for report in reports] == [("test",), ("train",)]
    assert len({report.digest for report in reports}) == 1
    assert set(reports[0].keys["test"]).isdisjoint(reports[0].keys["train"])
