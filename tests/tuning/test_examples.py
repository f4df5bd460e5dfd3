"""Epochs, accumulated batches that count as one, other data on resuming, examples that were trained on."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

import zoo
from tests.tuning.helpers import run, same
from zoo import BatchRequest, DataError, TuningError
from zoo.data.report import Report, key_of, record
from zoo.data.stream import redrawn, stream
from zoo.tuning.examples import opened


class Streamed:
    """`fake()` with data from memory, as plugins have them."""

    def __init__(self, model, x) -> None:
        self.model, self.x = model, x

    def __getattr__(self, name):
        return getattr(self.model, name)

    def train(self):
        return self.model.train()

    def batches(self, data=None, *, batch_size, split="train", seed=0):
        tensors = {"x": self.x, "y": torch.tanh(self.x @ self.target)}
        return stream(tensors, BatchRequest(batch_size, split, seed))


@pytest.mark.parametrize(("epochs", "accumulate", "steps"), [(1, 1, 5), (2.5, 1, 13), (1, 2, 3), (0.01, 1, 1)])
def test_epochs_are_passes_over_the_data(fake, epochs, accumulate, steps):
    model = Streamed(fake(), torch.randn(40, 4))
    result = run(model, steps=None, epochs=epochs, gradient_accumulation_steps=accumulate)
    assert result.steps == steps


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 2}, "expected one of steps, minutes and epochs, got steps and epochs"),
        ({"steps": None}, "got none"),
        ({"steps": None, "epochs": 0}, "epochs as a number above 0"),
        ({"steps": None, "epochs": 1}, "do not say how many items"),
    ],
)
def test_epochs_that_cannot_be_are_errors(fake, options, message):
    with pytest.raises(TuningError, match=message):
        run(fake(), **options)


def test_what_is_drawn_anew_has_no_passes():
    request = BatchRequest(4, "train", 0)
    assert opened(lambda: redrawn(lambda seed: {"x": torch.rand(8)}, request), 0).items is None
    assert opened(lambda: stream({"x": torch.rand(8)}, request), 0).items == 8


def test_the_first_batch_that_was_drawn_to_look_is_not_lost():
    request = BatchRequest(4, "train", 0)
    tensors = {"x": torch.rand(8)}
    looked, plain = opened(lambda: stream(tensors, request), 0), stream(tensors, request)
    for number in range(5):
        assert torch.equal(looked.take(number)["x"], next(plain)["x"])


class Tokens:
    """A model of tokens: its loss is the mean over those that are not masked."""

    def __init__(self, rows: list[torch.Tensor]) -> None:
        torch.manual_seed(0)
        self.module = torch.nn.Embedding(11, 11).double()
        self.device, self.rows = torch.device("cpu"), rows

    def trainable_parameters(self):
        return list(self.module.named_parameters())

    def train(self):
        return self.module.train()

    def count(self, batch):
        return int((batch["labels"] != -100).sum())

    def loss(self, batch):
        return cross_entropy(self.module(batch["labels"].clamp(min=0)).flatten(0, 1), batch["labels"].flatten())

    def batches(self, data=None, *, batch_size, split="train", seed=0):
        while True:
            for start in range(0, len(self.rows), batch_size):
                yield {"labels": torch.stack(self.rows[start : start + batch_size])}


def _rows(generator: torch.Generator) -> list[torch.Tensor]:
    rows = torch.randint(11, (8, 9), generator=generator)
    lengths = torch.tensor([9, 1, 3, 9, 2, 2, 0, 0])  # the last batch of two counts nothing
    return list(rows.masked_fill(torch.arange(9) >= lengths[:, None], -100))


@pytest.mark.parametrize("seed", range(3))
def test_accumulated_batches_are_the_one_large_batch(seed):
    rows = _rows(torch.Generator().manual_seed(seed))
    options = {"steps": 3, "lr": 0.1, "quiet": True}
    large, small = Tokens(rows), Tokens(rows)
    one = zoo.tuning.loop.tune(large, batch_size=8, **options)
    many = zoo.tuning.loop.tune(small, batch_size=2, gradient_accumulation_steps=4, **options)
    torch.testing.assert_close(small.module.weight, large.module.weight, rtol=1e-9, atol=1e-12)
    assert many.losses == pytest.approx(one.losses, rel=1e-6)


def test_a_step_in_which_nothing_counts_is_an_error():
    model = Tokens([torch.full((9,), -100)])
    with pytest.raises(DataError, match="every label is masked"):
        zoo.tuning.loop.tune(model, steps=1, batch_size=1, quiet=True)


@pytest.mark.parametrize("change", ["value", "order", "more"])
def test_a_run_is_not_resumed_with_other_data(fake, tmp_path, change):
    x = torch.randn(40, 4)
    other = copy.deepcopy(x)
    if change == "value":
        other[3, 2] += 1e-3
    elif change == "order":
        other = x.flip(0)
    else:
        other = torch.cat([x, x[:1]])
    model = Streamed(fake(), x)
    model.model.raise_at[11] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run(model, out=tmp_path)
    with pytest.raises(TuningError, match="the data give other batches"):
        run(Streamed(fake(), other), out=tmp_path, resume=True)
    whole = Streamed(fake(), x)
    run(whole)
    again = Streamed(fake(), x)
    run(again, out=tmp_path, resume=True)
    assert same(again.values(), whole.values())


def test_what_the_data_room_says_is_printed_before_the_first_step(fake, capsys):
    class Told(Streamed):
        def batches(self, data=None, **options):
            record(Report("pets", "files", splits={"train": 40}, classes={"cat": 40}))
            return super().batches(data, **options)

    result = run(Told(fake(), torch.randn(40, 4)), quiet=False)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["pets: 40 files: 40 used", "classes: cat 40"]
    assert result.reports[0].origin == "pets"


def test_evaluating_on_what_was_trained_on_says_so(capsys):
    from zoo.tuning.seen import SeenExamples

    keys = [key_of(str(i)) for i in range(10)]
    seen = SeenExamples()
    assert seen.share([Report("a", "rows", keys={"test": keys})]) == 0
    seen.add([Report("a", "rows", keys={"train": keys[:5], "test": keys[5:]})])
    assert seen.share([Report("a", "rows", keys={"train": keys[:5], "test": keys[5:]})]) == 0
    assert seen.share([Report("b", "rows", keys={"test": keys[4:8]})]) == 0.25
    assert (
        seen.share([Report("b", "rows", keys={"train": keys[:5], "test": keys[5:]}, served=("train", "test"))]) == 0.5
    )
