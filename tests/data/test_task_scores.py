"""Losses and metrics of the tasks, against scikit-learn's; entities by hand."""

from __future__ import annotations

import random

import pytest
import torch
from torch.nn import functional

from zoo.data.task_labels import IGNORED, class_numbers, label_tensor
from zoo.data.task_scores import entities, task_loss, task_metrics
from zoo.errors import DataError

sklearn = pytest.importorskip("sklearn.metrics")
NAMES = ["ant", "bee", "cat"]


def test_classes_and_numbers() -> None:
    logits, labels = torch.randn(40, 3), torch.randint(0, 3, (40,))
    found = task_metrics("classify", logits, labels, NAMES)
    assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(labels, logits.argmax(-1)))
    assert found["loss"] == pytest.approx(
        sklearn.log_loss(labels, logits.double().softmax(-1), labels=[0, 1, 2]), rel=1e-5
    )
    guesses, values = torch.randn(40, 2), torch.randn(40, 2)
    found = task_metrics("regress", guesses, values, ["u", "v"])
    assert found["mse"] == pytest.approx(sklearn.mean_squared_error(values, guesses), rel=1e-5)
    assert found["mae"] == pytest.approx(sklearn.mean_absolute_error(values, guesses), rel=1e-5)
    assert found["r2"] == pytest.approx(sklearn.r2_score(values.double(), guesses.double()), rel=1e-5)
    each = [torch.corrcoef(torch.stack([guesses[:, i], values[:, i]]))[0, 1].item() for i in range(2)]
    assert found["pearson"] == pytest.approx(sum(each) / 2, rel=1e-4)
    assert task_metrics("regress", torch.ones(3, 1), torch.ones(3, 1), ["u"])["r2"] == 0.0


def test_several_classes_at_once() -> None:
    logits, labels = torch.randn(60, 3), torch.randint(0, 2, (60, 3))
    logits[:6] = logits[6:12]  # ties
    found = task_metrics("multilabel", logits, labels.float(), NAMES)
    guesses = (logits > 0).int()
    assert found["f1"] == pytest.approx(sklearn.f1_score(labels, guesses, average="micro"))
    assert found["macro_f1"] == pytest.approx(sklearn.f1_score(labels, guesses, average="macro"))
    assert found["map"] == pytest.approx(sklearn.average_precision_score(labels, logits.double().sigmoid()))
    assert found["loss"] == pytest.approx(
        functional.binary_cross_entropy_with_logits(logits, labels.float()).item(), rel=1e-6
    )


def test_entities_are_right_as_a_whole() -> None:
    assert entities(["B-A", "I-A", "O", "B-A", "B-A", "I-B", "I-B"]) == {
        ("A", 0, 1),
        ("A", 3, 3),
        ("A", 4, 4),
        ("B", 5, 6),
    }
    assert entities(["I-A", None, "I-A"]) == {("A", 0, 0), ("A", 2, 2)}
    names = ["O", "B-A", "I-A"]
    true = torch.tensor([1, 2, 0, 1, IGNORED, 2, 0])
    said = torch.tensor([1, 2, 0, 0, 0, 2, 2])  # the first entity is right, the second missed, the third too long
    logits = functional.one_hot(said, 3).float() * 9
    found = task_metrics("tokens", logits, true, names)
    assert found["f1"] == pytest.approx(2 * 1 / (3 + 2))
    assert found["accuracy"] == pytest.approx(4 / 6)


def test_tags_without_a_scheme_have_the_mean_over_the_tags() -> None:
    logits, labels = torch.randn(50, 3), torch.randint(0, 3, (50,))
    found = task_metrics("tokens", logits, labels, ["NOUN", "VERB", "X"])
    assert found["f1"] == pytest.approx(sklearn.f1_score(labels, logits.argmax(-1), average="macro"))


def test_what_is_ignored_counts_in_no_loss() -> None:
    logits, labels = torch.randn(2, 5, 3), torch.randint(0, 3, (2, 5))
    labels[0, 2:] = IGNORED
    kept = labels != IGNORED
    assert torch.allclose(task_loss("tokens", logits, labels), functional.cross_entropy(logits[kept], labels[kept]))


def test_labels_are_bound_by_name() -> None:
    values = random.choices(["Cat", "ant", "bee", 2, torch.tensor(1)], k=20)
    wanted = [
        {"Cat": 2, "ant": 0, "bee": 1}.get(value, value) if isinstance(value, str) else int(value) for value in values
    ]
    assert class_numbers(values, NAMES, model="m") == wanted
    assert class_numbers(["0", "2"], ["LABEL_0", "LABEL_1", "LABEL_2"], model="m") == [0, 2]
    assert class_numbers([True, False], ["False", "True"], model="m") == [1, 0]
    rows = label_tensor("multilabel", [["cat", "ant"], "bee, cat", [1, 0, 0], [], "ant"], NAMES, model="m")
    assert rows.tolist() == [[1, 0, 1], [0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 0, 0]]
    assert label_tensor("regress", [1, "2.5", torch.tensor(3.0)], ["stars"], model="m").tolist() == [[1], [2.5], [3]]


@pytest.mark.parametrize(
    ("task", "value", "said"),
    [
        ("classify", "dog", "none of m's 3: dog"),
        ("classify", 3, "from 0 to 2"),
        ("classify", True, "none of m's 3: True"),
        ("classify", 0.5, "from 0 to 2"),
        ("multilabel", [0, 2, 1], "3 zeros and ones"),
        ("multilabel", [1, 0], "3 zeros and ones"),
        ("multilabel", ["dog"], "none of m's 3: dog"),
        ("multilabel", 1, "list of names"),
        ("regress", "many", "3 finite numbers"),
        ("regress", [1, 2, float("nan")], "3 finite numbers"),
    ],
)
def test_labels_that_are_none(task: str, value: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        label_tensor(task, [value], NAMES, model="m")
