"""What all sources share: columns by name, classes by name, one rule of splits, the report."""

from __future__ import annotations

import random

import pytest

import zoo
from zoo import DataError
from zoo.data.classes import bind_classes, in_order
from zoo.data.columns import find_columns
from zoo.data.report import Report, collecting, key_of, record
from zoo.data.spec import as_data, split_name
from zoo.data.splits import held_out
from zoo.data.table import Table


def test_columns_are_found_by_name_whatever_their_case_and_order() -> None:
    names = ["id", "Stars", "Review", "LABEL"]
    assert find_columns(names, ("text", "label"), given={}, origin="a.csv") == {"text": "Review", "label": "LABEL"}
    given = {"label": "Stars"}
    assert find_columns(names, ("text", "label"), given=given, origin="a.csv") == {"label": "Stars", "text": "Review"}


def test_a_column_is_used_for_one_thing_only() -> None:
    found = find_columns(["prompt", "target"], ("prompt", "completion"), ("label",), given={}, origin="a")
    assert found == {"prompt": "prompt", "completion": "target"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "found no column of the texts; its columns are id, stars"),
        ({"text": "rewiev"}, "has no column 'rewiev'"),
        ({"txt": "id"}, "expected 'text' or 'label', got 'txt'"),
    ],
)
def test_a_column_that_is_not_there_is_an_error_with_the_names(given: dict[str, str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        find_columns(["id", "stars"], ("text",), ("label",), given=given, origin="a.csv")


def test_classes_are_bound_by_name_in_any_order() -> None:
    assert bind_classes(["dog", "cat"], ["cat", "bird", "dog"], model="m") == ([2, 0], "")
    numbers, said = bind_classes(["Great_White Shark"], ["tench", "great white shark"], model="m")
    assert numbers == [1]
    assert "Great_White Shark is great white shark" in said


@pytest.mark.parametrize(
    ("found", "names", "said"),
    [
        (["cat", "cow", "dog"], ["cat", "dog", "bird"], "1 of the data's 3 classes are none of m's 3: cow"),
        (["Cat", "cat"], ["cat", "dog"], "'Cat' and 'cat' are both 'cat'"),
        (["CAT"], ["cat", "Cat"], "none of m's 2: CAT"),  # either
        (["a", "b", "c"], ["0", "1"], "tells 2 classes apart, which have no names, and the data have 3"),
    ],
)
def test_classes_without_a_name_of_the_models_are_refused(found: list[str], names: list[str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        bind_classes(found, names, model="m")


def test_a_model_without_names_takes_numbers_as_numbers_and_as_many_names_as_it_has() -> None:
    assert bind_classes(["7", "0"], [f"LABEL_{i}" for i in range(8)], model="m") == ([7, 0], "")
    assert bind_classes(["LABEL_1"], ["LABEL_0", "LABEL_1"], model="m") == ([1], "")
    numbers, said = bind_classes(["b10", "b2"], ["LABEL_0", "LABEL_1"], model="m")
    assert numbers == [1, 0]
    assert "0 b2, 1 b10" in said


def test_numbers_in_names_sort_as_numbers() -> None:
    assert in_order(["10", "9", "a10", "a9", "a"]) == ["9", "10", "a", "a9", "a10"]


@pytest.mark.parametrize("seed", range(5))
def test_splits_are_disjoint_by_group_and_do_not_depend_on_the_order(seed: int) -> None:
    draw = random.Random(seed)
    groups = [draw.randrange(60) for _ in range(300)]
    labels = [group % 3 for group in groups]
    out = held_out(groups, labels=labels, seed=seed)
    assert {g for g, o in zip(groups, out, strict=True) if o}.isdisjoint(
        g for g, o in zip(groups, out, strict=True) if not o
    )
    assert abs(sum(out) - 30) <= 8  # groups of about 5
    order = draw.sample(range(300), 300)
    mixed = held_out([groups[i] for i in order], labels=[labels[i] for i in order], seed=seed)
    assert mixed == [out[i] for i in order]
    assert held_out(groups, labels=labels, seed=seed + 1) != out


def test_every_class_gives_its_share() -> None:
    labels = ["a"] * 100 + ["b"] * 20 + ["c"] * 10
    out = held_out(range(130), labels=labels)
    assert [sum(o for o, own in zip(out, labels, strict=True) if own == label) for label in "abc"] == [10, 2, 1]


@pytest.mark.parametrize(("count", "share", "least", "most"), [(1, 0.1, 0, 0), (2, 0.1, 1, 1), (2, 0.9, 1, 1)])
def test_few_examples_are_still_two_splits(count: int, share: float, least: int, most: int) -> None:
    assert least <= sum(held_out(range(count), share=share)) <= most


def test_nothing_is_held_out_of_a_share_of_nothing() -> None:
    assert not any(held_out(range(50), share=0))


def test_sizes_count_where_they_are_given() -> None:
    sizes = [1000.0] + [10.0] * 100
    out = held_out(range(101), sizes=sizes)
    held = sum(size for size, o in zip(sizes, out, strict=True) if o)
    assert 100 <= held <= 320
    assert not out[0]


def test_a_report_says_what_was_used_skipped_and_held_out() -> None:
    report = Report(
        "pets",
        "files",
        splits={"train": 11, "test": 1},
        rule="10 % held out, seed 0",
        classes={"cat": 7, "dog": 5},
        skipped=(("b.png", "it is truncated"), ("c.png", "it is hidden")),
    )
    assert report.lines() == [
        "pets: 14 files: 12 used, 2 skipped (b.png: it is truncated; c.png: it is hidden)",
        "classes: cat 7, dog 5",
        "splits: train 11, test 1 (10 % held out, seed 0)",
    ]


def test_reports_are_collected_once_and_only_within_the_block() -> None:
    one, other = (Report(name, "rows", splits={"train": 1}) for name in "ab")
    record(one)
    with collecting() as reports:
        record(one)
        record(one)
        record(other)
    record(other)
    assert reports == [one, other]


def test_the_digest_follows_the_examples_and_not_their_order() -> None:
    keys = [key_of(f"text {i}", b"1") for i in range(20)]
    digest = Report("a", "rows", keys={"train": keys}).digest
    assert Report("b", "rows", keys={"train": keys[::-1]}).digest == digest
    assert Report("a", "rows", keys={"train": keys[:-1]}).digest != digest
    assert key_of("ab", "c") != key_of("a", "bc")


def test_data_says_what_cannot_be() -> None:
    assert as_data(None, "letters:sans").source == "letters:sans"
    assert as_data(zoo.Data([1], hold_out=0.2), columns={"text": "t"}, group=None).hold_out == 0.2
    assert split_name("val") == "validation"
    for wrong in ({"hold_out": 1.0}, {"split": "trian"}, {"broken": "ignore"}, {"classes": "cat"}):
        with pytest.raises(DataError, match="expected"):
            zoo.Data([1], **wrong)
    with pytest.raises(DataError, match="one length"):
        Table({"a": [1, 2], "b": [1]}, "x")
