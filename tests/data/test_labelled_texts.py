"""Texts with labels from tables, lists and folders: columns and classes by name, one rule of splits, tags of words."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from zoo import DataError
from zoo.data.labelled_texts import LabelledTexts, classes_in, labelled_texts
from zoo.data.report import collecting

NAMES = ["bad", "good", "so-so"]


def rows(count: int = 60) -> list[dict[str, Any]]:
    draw = random.Random(count)
    return [
        {"id": at, "review": f"{draw.random()} is {NAMES[at % 3]}", "stars": NAMES[at % 3], "by": f"person {at % 9}"}
        for at in range(count)
    ]


def read(data: Any, split: str = "train", *, task: str = "classify", names: list[str] = NAMES) -> LabelledTexts:
    return labelled_texts(data, split, task=task, names=names, model="m")


def right(found: LabelledTexts, names: list[str] = NAMES) -> bool:
    assert isinstance(found.labels, torch.Tensor)
    return all(text.endswith(names[int(label)]) for text, label in zip(found.texts, found.labels, strict=True))


def test_a_csv_by_the_names_of_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "review", "mark", "by"])
        writer.writerows(row.values() for row in rows())
    data = zoo.Data(path, columns={"label": "mark"})
    with collecting() as reports:
        held, kept = read(data, "test"), read(data)
    assert (len(held.texts), len(kept.texts)) == (6, 54)
    assert set(held.texts).isdisjoint(kept.texts)
    assert right(held)
    assert right(kept)
    assert torch.bincount(held.labels).tolist() == [2, 2, 2]
    assert reports[0].classes == dict.fromkeys(NAMES, 20)
    assert reports[0].unused == ("id", "by")
    with pytest.raises(DataError, match="found no column of the labels; its columns are id, review, mark, by"):
        read(path)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_classes_is_the_models_whatever_the_datas(seed: int) -> None:
    draw = random.Random(seed)
    names = draw.sample(NAMES, 3)
    mixed = draw.sample(rows(), 60)
    data = zoo.Data([(row["review"], row["stars"]) for row in mixed], seed=seed)
    assert right(read(data, names=names), names)
    upper = [(row["review"], row["stars"].upper().replace("-", "_")) for row in mixed]
    assert right(read(upper, names=names), names)


def test_numbers_are_the_models_or_the_names_that_the_data_declare() -> None:
    import datasets

    numbers = [(row["review"], NAMES.index(row["stars"])) for row in rows()]
    assert right(read(numbers))
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["so-so", "bad", "good"])}
    )
    named = datasets.Dataset.from_list(
        [{"text": row["review"], "label": row["stars"]} for row in rows()], features=features
    )
    assert right(read(named))
    assert classes_in(named) == NAMES


def test_the_user_renames_classes_or_chooses_some() -> None:
    pairs = [(row["review"].replace("bad", "awful"), row["stars"].replace("bad", "awful")) for row in rows()]
    with pytest.raises(DataError, match="1 of the data's 3 classes are none of m's 3: awful"):
        read(pairs)
    found = read(zoo.Data(pairs, classes={"awful": "bad"}))
    assert [NAMES[label] for label in found.labels[:6]] == [
        t.split()[-1].replace("awful", "bad") for t in found.texts[:6]
    ]
    some = zoo.Data([(row["review"], row["stars"]) for row in rows()], classes=["good", "bad"])
    with collecting() as reports:
        found = read(some, names=["bad", "good"])
    assert right(found, ["bad", "good"])
    assert len(reports[0].skipped) == 20
    assert classes_in(some) == ["good", "bad"]


def test_folders_are_classes_at_any_depth(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("val", 1)):
        for name in NAMES[split == "val" :]:
            for at in range(count):
                path = tmp_path / split / name / ("deep" if at % 2 else "") / f"{at}.md"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{split} {at} is {name}")
    (tmp_path / "train" / "bad" / ".hidden.txt").write_text("x")
    kept, held = read(tmp_path), read(tmp_path, "test")
    assert len(kept.texts) == 9
    assert right(kept)
    assert right(held)
    assert held.labels.tolist() == [1, 2]
    assert classes_in(tmp_path) == NAMES
    (tmp_path / "train" / "stray.txt").write_text("which class?")
    with pytest.raises(DataError, match="one for each class, found files beside them"):
        read(tmp_path)


def test_groups_and_equal_texts_stay_together() -> None:
    data = zoo.Data([{**row, "label": row["stars"]} for row in rows()], group="by")
    person = {row["review"]: row["by"] for row in rows()}
    held, kept = ({person[text] for text in read(data, split).texts} for split in ("test", "train"))
    assert held
    assert held.isdisjoint(kept)
    twice = [(f"text {at % 20}", NAMES[at // 20]) for at in range(60)]  # the same text in three classes
    assert set(read(twice, "test").texts).isdisjoint(read(twice).texts)


def test_pairs_of_texts_have_two() -> None:
    table = {"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": ["bad", "good"]}
    data = zoo.Data(table, columns={"text": "premise", "text_pair": "hypothesis"}, split="all")
    found = read(data)
    assert (found.texts, found.seconds) == (["a", "b"], ["c", "d"])


def test_rows_without_a_label_or_a_text_are_skipped_and_said() -> None:
    data = [*[(row["review"], row["stars"]) for row in rows(30)], ("no label", None), ("", "bad"), ("none", "")]
    with collecting() as reports:
        assert right(read(data))
    assert reports[0].skipped == (
        ("row 30", "it has no label"),
        ("row 31", "it has no text"),
        ("row 32", "it has no label"),
    )


def test_several_classes_and_numbers() -> None:
    data = zoo.Data([("a", ["bad", "so-so"]), ("b", []), ("c", "good")], split="all")
    assert read(data, task="multilabel").labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    data = zoo.Data({"text": ["a", "b"], "label": ["3.5", "-1"]}, split="all")
    assert read(data, task="regress", names=["stars"]).labels.tolist() == [[3.5], [-1.0]]


def test_tags_of_words() -> None:
    import datasets

    tags = ["O", "PER", "LOC"]
    data = [{"tokens": ["Ada", "saw", "Rome"], "ner_tags": [1, 0, 2]}, {"tokens": ["It", "was"], "ner_tags": [0, 0]}]
    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=tags)),
        }
    )
    table = zoo.Data(datasets.Dataset.from_list(data, features=features), split="all")
    names = ["LOC", "O", "PER"]
    found = read(table, task="tokens", names=names)
    assert found.texts == [["Ada", "saw", "Rome"], ["It", "was"]]
    assert found.labels == [[2, 1, 0], [1, 1]]
    assert classes_in(table) == sorted(tags)
    listed = zoo.Data([(["Ada", "saw"], ["PER", "O"]), (["It"], ["O"])], split="all")
    assert read(listed, task="tokens", names=names).labels == [[2, 1], [1]]
    with collecting() as reports:
        read(zoo.Data([*data, {"tokens": ["a"], "ner_tags": [0, 1]}], split="all"), task="tokens", names=tags)
    assert reports[0].skipped == (("row 2", "it has 1 words and 2 tags"),)
