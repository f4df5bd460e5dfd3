"""Every verb on every architecture whose weights are carried, in every precision, with and without an adapter."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from zoo.cli import main, matrix_run

# Without an adapter 16 and 8 bit have no verb that they do not have with one: `zoo matrix` runs those rows too.
ROWS = [(bits, lora) for bits in matrix_run.BITS for lora in matrix_run.LORA if lora or bits in (32, 4)]
COMPILED = {(32, False), (4, True)}


def architectures() -> list[Any]:
    """Every architecture, all but one of the day slow."""
    names, day = matrix_run.names(), os.environ["ZOO_TEST_DAY"]
    today = names[0 if day == "all" else int(day) % len(names)]
    return [pytest.param(name, marks=[] if name == today else [pytest.mark.slow]) for name in names]


@pytest.mark.turns(3)
@pytest.mark.parametrize(
    ("bits", "lora"),
    [
        pytest.param(
            bits, lora, id=f"{bits}-{'lora' if lora else 'plain'}", marks=[pytest.mark.slow][bits == 4 and bool(lora) :]
        )
        for bits, lora in ROWS
    ],
)
@pytest.mark.parametrize("name", architectures())
def test_every_verb_holds(name: str, bits: int, lora: int | None) -> None:
    # Dynamo takes longer than all other verbs together: what it captures is alike in 8 and 4 bit, and in 32 and 16.
    left_out = ("compile",) if (bits, bool(lora)) not in COMPILED else ()
    cells = matrix_run.check(name, bits, lora, leave_out=left_out)
    assert [cell.verb for cell in cells] == [verb for verb in matrix_run.VERBS if verb not in left_out]
    assert not [cell for cell in cells if cell.held is False]
    allowed = set() if lora else {"reload", "merge"} if bits == 32 else {"reload", "merge", "backward", "tune"}
    assert {cell.verb for cell in cells if cell.held is None} <= allowed


def test_a_verb_that_does_not_hold_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    name = matrix_run.names()[0]

    def merge(self: object, *names: str) -> None:
        for parameter in self.module.parameters():  # type: ignore[attr-defined]
            if parameter.is_floating_point():
                parameter.data.add_(torch.ones_like(parameter))

    monkeypatch.setattr("zoo.model.Model.merge", merge)
    monkeypatch.setattr("zoo.model.Model.unmerge", lambda self: ())
    monkeypatch.setattr("zoo.cli.matrix_run.RUNS", {verb: matrix_run.RUNS[verb] for verb in ("load", "merge")})
    monkeypatch.setattr("zoo.cli.matrix_run.VERBS", ("load", "merge"))
    monkeypatch.setattr("zoo.cli.matrix_run.BITS", (32,))
    monkeypatch.setattr("zoo.cli.matrix_run.LORA", (2,))
    assert main(["matrix", name]) == 1
    told = capsys.readouterr()
    assert "NO" in told.out
    assert "merge: a loss of" in told.err
