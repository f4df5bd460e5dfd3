"""Regular expressions from files and users: what `re` says, and an error where `re` would never be through."""

from __future__ import annotations

import random
import re
import time
import warnings
from contextlib import suppress

import pytest

from zoo.bounded import patterns
from zoo.errors import AdapterError

PATH = "model.decoder.layers.10.self_attn.q_proj"
_ATOMS = r"""
a b . h \d \w [ab] [^a] \. attn c_attn 0 \d+ { } {e} {e<=1} [[:alpha:]] [[] []a] [^]a] (?! (?= (?<! ( (?: (?P<n> (?i: |
) * + ? *? +? {2} {1,2} {,2} {0,} ^ $ \b \A \Z \1 (?P=n) *+ (?> \x61 (?#c) (?x) \s - [a- ] && -- | \.
"""
ATOMS = _ATOMS.split()
TEXTS = ("", "a", "aab", "h.0.attn.c_attn", "h.1.b", "a{e}", "[", "]a", "A", PATH)


def test_what_is_matched_is_what_re_says() -> None:
    random.seed(0)
    compared = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(1000):
            pattern = "".join(random.choices(ATOMS, k=random.randint(1, 8)))
            try:
                ours, end = re.compile(pattern), re.compile(rf"(?:.*\.)?(?:{pattern})")
            except re.error:
                continue
            for text in TEXTS:
                assert patterns.fullmatch(pattern, text) == (ours.fullmatch(text) is not None), (pattern, text)
                assert patterns.endmatch(pattern, text) == (end.fullmatch(text) is not None), (pattern, text)
                compared += 1
    assert compared > 1000


@pytest.mark.parametrize(
    "pattern",
    ["(.*)*x", r"(\w+\.?)+!", r"((.|\w)+)+\d\d\d", r"(?=(.+)+X).*", "(.*.*.*.*.*.*.*.*.*.*)z", "(model|(.|l)*)*!"],
)
def test_nested_repetitions_end(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "_SPENT", patterns._Spent())
    began = time.process_time()
    with suppress(AdapterError):
        for number in range(100):
            assert not patterns.fullmatch(pattern, f"{PATH}.{number}.lora")
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    "pattern",
    [
        "(" * 20_000 + "a" + ")" * 20_000,
        "((((a{1,500}){1,500}){1,500}){1,500})",
        "a{4294967294}",
        "(?:a?b)?" * 3000,
        "(",
    ],
)
def test_what_cannot_be_compiled_is_an_error(pattern: str) -> None:
    began = time.process_time()
    with pytest.raises(AdapterError, match=r"^targets: .*regular expression"):
        patterns.check_pattern(pattern, "targets")
    assert time.process_time() - began < 2


def test_a_long_list_of_names_is_matched_at_once() -> None:
    names = [f"model.layers.{number}.q_proj" for number in range(5000)]
    pattern = "|".join(map(re.escape, names))
    began = time.process_time()
    assert all(patterns.fullmatch(pattern, name) for name in names)
    assert not patterns.fullmatch(pattern, "q_proj")
    assert patterns.endmatch("^" + re.escape(names[3]), names[3])
    assert not patterns.endmatch("^" + re.escape(names[3]), f"base.{names[3]}")
    assert patterns.endmatch(re.escape(names[3]), f"base.{names[3]}")
    assert time.process_time() - began < 2


def test_what_takes_too_long_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "_SPENT", patterns._Spent())
    monkeypatch.setattr(patterns, "SECONDS", 0.01)
    with pytest.raises(AdapterError, match="takes too long to match: write it without repetitions within repetitions"):
        patterns.fullmatch(r"((.|\w)+)+\d\d\d", PATH)
    monkeypatch.setattr(patterns, "TOTAL", 0.0)  # what slow matches take adds up
    pattern = r"(?:.|\w)*(?:.|\w)*(?:.|\w)*[!?]"
    with pytest.raises(AdapterError, match="takes too long"):
        any(patterns.fullmatch(pattern, f"{PATH}.{number}") for number in range(1000))
