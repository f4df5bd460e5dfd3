"""What a notebook shows of models and results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

import zoo


def test_a_notebook_shows_facts_and_runs_nothing_in_them() -> None:
    model = zoo.wrap(nn.Sequential(nn.Linear(64, 64)), bits=4, lora={"a": 2})
    model.adapter_set.entry = replace(model.entry, name="<script>alert(1)</script>")
    shown = model._repr_html_()
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown
    assert "4,160" in model.footprint()._repr_html_()
    assert "<td" in shown
    hostile = "<img src=x onerror=alert(1)>\x1b[31m"
    done = zoo.TuneResult((2.0, 1.0), 2, 1.0, 4, 1e-3, 0, 9, out=Path("x"), stopped=hostile)
    text = done._repr_html_()
    assert "<img" not in text
    assert "\x1b" not in text
    assert "2 steps of 4" in text
