"""Configurations of adapters: valid and invalid values."""

from __future__ import annotations

import math
from typing import Any

import pytest

import zoo
from zoo.errors import AdapterError
from zoo.methods.config import as_adapter, check_name


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"rank": 0}, "rank: expected a whole number of at least 1, got 0"),
        ({"rank": -3}, "rank"),
        ({"rank": 2.0}, "rank"),
        ({"rank": True}, "rank"),
        ({"rank": "8"}, "rank"),
        ({"alpha": "16"}, "alpha"),
        ({"alpha": math.inf}, "alpha"),
        ({"alpha": math.nan}, "alpha"),
        ({"alpha": 1e308}, "alpha: expected a number, at most 1e\\+18"),
        ({"alpha_pattern": {"fc": 1e300}}, "alpha"),
        ({"alpha": False}, "alpha"),
        ({"dropout": 1.0}, "dropout: expected a share from 0 up to but not including 1, got 1.0"),
        ({"dropout": -0.1}, "dropout"),
        ({"dropout": True}, "dropout"),
        ({"dropout": math.nan}, "dropout"),
        ({"dropout": "0.1"}, "dropout"),
        ({"rslora": 1}, "rslora"),
        ({"targets": []}, "targets: expected parameter-path suffixes"),
        ({"targets": ["a", ""]}, "targets"),
        ({"targets": [1]}, "targets"),
        ({"targets": 7}, "targets"),
        ({"targets": "attn.("}, "targets: 'attn.\\(' is not a regular expression"),
        ({"rank_pattern": {"fc": 0}}, "rank"),
        ({"rank_pattern": {"(": 1}}, "rank_pattern: .*not a regular expression"),
        ({"rank_pattern": ["fc"]}, "rank_pattern: expected a dict"),
        ({"alpha_pattern": {"fc": None}}, "alpha"),
        ({"alpha_pattern": {1: 2}}, "alpha_pattern: expected a dict"),
    ],
)
def test_impossible_values_are_named(values: dict[str, Any], match: str) -> None:
    with pytest.raises(AdapterError, match=match) as caught:
        zoo.LoRA(**values)
    assert "\n" not in str(caught.value)


def test_a_bare_rank_gets_twice_its_size_as_alpha() -> None:
    assert as_adapter(8) == zoo.LoRA(rank=8, alpha=16)
    assert as_adapter(3).scale_of("any") == 2
    assert as_adapter(zoo.LoRA(rank=3)) == zoo.LoRA(rank=3)


@pytest.mark.parametrize("value", [True, "8", 8.0, None, [8], {"rank": 8}])
def test_what_is_no_adapter(value: Any) -> None:
    with pytest.raises(AdapterError, match="lora: expected a rank"):
        as_adapter(value)


def test_lists_of_targets_become_tuples() -> None:
    assert zoo.LoRA(targets=["a", "b"]).targets == ("a", "b")
    assert zoo.LoRA(targets=["a"]) == zoo.LoRA(targets=("a",))


@pytest.mark.parametrize(
    ("path", "rank"),
    [
        ("fc", 2),
        ("block.fc", 2),
        ("block.fc2", 8),
        ("myfc", 8),
        ("h.0.attn", 3),
        ("h.11.attn", 3),
        ("h.0.attn.x", 8),
        ("top", 5),
    ],
)
def test_patterns_match_the_end_of_a_path_at_a_dot_and_the_first_one_wins(path: str, rank: int) -> None:
    config = zoo.LoRA(rank=8, rank_pattern={"fc": 2, r"h\.\d+\.attn": 3, "^top": 5, "block.fc": 7})
    assert config.rank_of(path) == rank
    assert config.rank_of("under.top") == 8


def test_patterns_are_read_as_peft_reads_them() -> None:
    from peft.utils.other import get_pattern_key

    patterns = {"fc": 2, r"h\.\d+\.(attn|mlp)": 3, "^top|end": 5, ".*deep": 7, "a.b": 9}
    config = zoo.LoRA(rank=8, rank_pattern=patterns)
    paths = [
        "fc",
        "x.fc",
        "xfc",
        "fc.x",
        "h.3.mlp",
        "x.h.3.mlp",
        "top",
        "x.top",
        "x.end",
        "so.deep",
        "deep",
        "a.b",
        "axb",
        "q.a.b",
    ]
    for path in paths:
        assert config.rank_of(path) == patterns.get(get_pattern_key(patterns, path), 8), path


@pytest.mark.parametrize("name", ["default", "a", "A-1", "_x", "0"])
def test_names_of_adapters(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "a.b", "a/b", "-a", "a b", "a\n", "é", None, 3, "../x"])
def test_names_that_no_adapter_can_have(name: Any) -> None:
    with pytest.raises(AdapterError, match="adapter name"):
        check_name(name)
