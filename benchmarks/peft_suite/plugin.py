"""A pytest plugin: PEFT's names stand for the shim's before its tests are imported; every outcome is written down."""

from __future__ import annotations

import inspect
import json
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import functions
import layers
import peft
import peft.tuners.lora
import peft.tuners.tuners_utils
import peft.utils
import pytest
import stand_ins
import transformers

from zoo import ZooError

METHODS = {
    "LoraConfig": "LoRA",
    "LoHaConfig": "LoHa",
    "LoKrConfig": "LoKr",
    "IA3Config": "IA3",
    "TrainableTokensConfig": "trainable tokens",
}
FUNCTIONS = (
    "PeftModel",
    "get_peft_model",
    "get_peft_model_state_dict",
    "set_peft_model_state_dict",
    "get_base_model_state_dict",
    "set_base_model_state_dict",
    "inject_adapter_in_model",
)
OWN_WORDS: set[str] = set()  # tests in which zoo raised an error of its own where PEFT's is expected
current = ""


def pytest_configure() -> None:
    """Put the shim in PEFT's place."""
    for name in FUNCTIONS:
        setattr(peft, name, getattr(functions, name))
    peft.tuners.tuners_utils.BaseTunerLayer = layers.TunerLayer
    peft.tuners.lora.LoraLayer = layers.TunerLayer
    peft.utils.AuxiliaryTrainingWrapper = layers.AuxiliaryWrapper
    peft.utils.ModulesToSaveWrapper = layers.SavedWrapper
    peft.utils.TrainableTokensWrapper = layers.TokensWrapper
    for auto in (transformers.AutoModelForCausalLM, transformers.AutoModelForSequenceClassification):
        auto.from_pretrained = partial(stand_ins.from_pretrained, auto.from_pretrained)
    pytest.raises = partial(_raises, pytest.raises)


def _raises(original: Any, expected: Any, *args: Any, match: Any = None, **kwargs: Any) -> Any:
    return original(expected, *args, match=match, **kwargs) if args else _Raises(original, expected, match)


class _Raises:
    """`pytest.raises` for which one of zoo's errors is as good, in zoo's own words."""

    def __init__(self, original: Any, expected: Any, match: Any) -> None:
        self.expected = expected if isinstance(expected, tuple) else (expected,)
        self.match = match
        self.context = original((*self.expected, ZooError))

    def __enter__(self) -> Any:
        self.info = self.context.__enter__()
        return self.info

    def __exit__(self, *failure: Any) -> Any:
        caught = self.context.__exit__(*failure)
        if caught and isinstance(self.info.value, ZooError):
            OWN_WORDS.add(current)
        elif caught and self.match is not None:
            assert re.search(self.match, str(self.info.value)), f"{self.match!r} is not in {self.info.value!s:.200}"
        return caught


def method_of(item: pytest.Item) -> str:
    """Return the PEFT method that a test is of, several joined by "+", "other" if one is not zoo's."""
    found: set[str] = set()
    for value in getattr(getattr(item, "callspec", None), "params", {}).values():
        kind = value if inspect.isclass(value) else type(value)
        if issubclass(kind, peft.PeftConfig):
            found.add(kind.__name__)
    if not found:
        source = inspect.getsource(item.function)  # type: ignore[attr-defined]
        found = set(re.findall(r"\b(\w+Config)\(", source)) - {"PeftConfig"}
        found = found or ({"LoraConfig"} if "TestDynamicDispatch" in item.nodeid or "lora" in item.name else found)
    names = {METHODS.get(name, "other") for name in found}
    return "other" if "other" in names or not names else "+".join(sorted(names))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Count the tests of other methods, and keep the rest, every n-th of them in a part."""
    part, parts = (int(number) for number in os.environ.get("PEFT_SUITE_PART", "0/1").split("/"))
    kept = []
    for item in items:
        item.method = method_of(item)  # type: ignore[attr-defined]
        if item.method != "other":  # type: ignore[attr-defined]
            kept.append(item)
        elif part == 0:
            _write({"test": item.nodeid, "method": "other", "outcome": "other", "why": ""})
    chosen = os.environ.get("PEFT_SUITE_ONLY")
    if chosen:
        wanted = set(Path(chosen).read_text().splitlines())
        kept = [item for item in kept if item.nodeid in wanted]
    items[:] = kept[part::parts]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Any:
    """Note which test runs."""
    global current
    current = item.nodeid
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Write each test's outcome down."""
    report = yield
    if call.when == "call" or not report.passed:
        outcome, why = "passes", "in zoo's own words" if item.nodeid in OWN_WORDS else ""
        if report.skipped:
            outcome, why = "skipped", str(call.excinfo.value)[:200] if call.excinfo else ""
        elif report.failed and call.excinfo is not None:
            error = _first(call.excinfo.value)
            outcome = "refuses" if isinstance(error, ZooError | layers.Missing) else "differs"
            why = f"{type(error).__name__}: {error}"[:400]
        _write({"test": item.nodeid, "method": item.method, "outcome": outcome, "why": why})  # type: ignore[attr-defined]
    return report


def _first(error: BaseException) -> BaseException:
    """Return the refusal within `pytest.warns`, which only says then that nothing has warned."""
    inner = error.__context__
    failed = isinstance(error, pytest.fail.Exception) and isinstance(inner, ZooError | layers.Missing)
    return inner if failed and inner is not None else error


def _write(line: dict[str, str]) -> None:
    with Path(os.environ["PEFT_SUITE_OUTCOMES"]).open("a") as file:
        file.write(json.dumps(line) + "\n")
