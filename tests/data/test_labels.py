"""Classes that a user asks for, captions, and the labels of training data."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zoo import DataError, ZooError
from zoo.data.labels import check_labels, class_captions, class_labels

NAMES = ("A", "B", "C")


@pytest.mark.parametrize(
    ("wanted", "n", "expected"),
    [
        (None, 4, [0, 1, 2, 0]),
        (2, 2, [2, 2]),
        ("B", 1, [1]),
        ("CAB", 4, [2, 0, 1, 2]),
        ("2, A", 3, [2, 0, 2]),
        ([0, "C"], 2, [0, 2]),
        (("2", 1), 2, [2, 1]),
        (range(1, 3), 2, [1, 2]),
        (torch.tensor([[2], [0]]), 2, [2, 0]),
        (torch.tensor(1), 2, [1, 1]),
        (np.array([1, 2]), 2, [1, 2]),
        ([np.int64(1), torch.tensor(2)], 2, [1, 2]),
    ],
)
def test_classes_by_name_and_by_number_are_repeated_to_n(wanted, n, expected):
    labels = class_labels(wanted, n, count=3, names=NAMES)
    assert labels.dtype == torch.int64
    assert labels.tolist() == expected


@pytest.mark.parametrize(
    "wanted", [3, -1, True, [True], "D", "A,D", "", ",", [], [[0]], 1.0, [0.5], {"A": 1}, b"A", torch.tensor([0.5])]
)
def test_what_is_no_class_is_one_clear_error(wanted):
    with pytest.raises(ZooError, match=r"^labels: expected classes as names \(A, B, C\) or numbers from 0 to 2, got "):
        class_labels(wanted, 1, count=3, names=NAMES)


def test_classes_without_names_are_numbers():
    assert class_labels("2,0", 2, count=3).tolist() == [2, 0]
    with pytest.raises(ZooError, match=r"expected classes as numbers from 0 to 2, got 'A'"):
        class_labels("A", 1, count=3)


def test_long_names_are_separated_by_commas():
    names = ("cat", "dog", "3")
    assert class_labels("dog, cat", 2, count=3, names=names).tolist() == [1, 0]
    assert class_labels("3", 1, count=3, names=names).tolist() == [2]  # a name goes before a number


def test_a_model_without_classes_takes_none():
    assert class_labels(None, 2, count=0) is None
    with pytest.raises(ZooError, match="the model has no classes, got 'A': leave the option out"):
        class_labels("A", 2, count=0)


def test_captions_are_names_where_there_are_any():
    assert class_captions(torch.tensor([2, 0]), NAMES) == ["C", "A"]
    assert class_captions(torch.tensor([2, 0]), ("A",)) == ["2", "A"]
    assert class_captions(torch.tensor([1])) == ["1"]
    assert class_captions(None, NAMES) is None


def test_labels_of_data_fit_the_model():
    labels = torch.tensor([0, 2])
    assert check_labels(labels, count=3, model="toy") is labels
    assert check_labels(labels, count=0, model="toy") is None
    with pytest.raises(DataError, match="toy has 3 classes, so its data need labels: give a folder"):
        check_labels(None, count=3, model="toy")
    with pytest.raises(DataError, match="expected labels from 0 to 1, the classes of toy, got labels from 0 to 2"):
        check_labels(labels, count=2, model="toy")
