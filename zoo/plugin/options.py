"""`zoo.Option`: one sampling option of an architecture, declared once for everything that asks for it.

`zoo sample -o`, `zoo info`, the pages of `zoo play` and the requests that `zoo serve` takes all come from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from zoo.errors import UnknownNameError, ZooError, did_you_mean

# What a value may be -> how an error says it. Of the last ones the plugin itself looks at the form.
TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "choice": "one of its choices",
    "text": "a text",
    "texts": "a text, or a list of texts",
    "messages": "a conversation: what the user says, or a list of {role, content}",
    "classes": "classes by name or number",
    "numbers": "a whole number, or a list of them",
    "images": "pictures, or files of pictures",
    "data": "data, as zoo.Data takes it: a name, a folder, a file",
}
OF_FILES = ("images", "data")  # a text here names files on this machine


@dataclass(frozen=True)
class Option:
    """One option of `model.sample`.

    >>> Option("steps", 50, "denoising steps", low=1, high=1000).check(20)
    20

    Attributes:
        name: what it is called.
        default: its value where none is given; None: the plugin decides, and None may be given.
        help: what it does, in a line.
        type: one of `TYPES`; by default that of the default, or "choice" with choices.
        low: the least number that may be given.
        high: the largest.
        above: a number below which, and at which, none may be given.
        choices: what a "choice" may be, or the names of "classes".
        each: whether a list has one value for each sample.
    """

    name: str
    default: Any
    help: str
    type: str = ""
    low: float | None = None
    high: float | None = None
    above: float | None = None
    choices: tuple[str, ...] = ()
    each: bool = False

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ZooError(f"expected an option's name as a word that Python takes as an argument, got {self.name!r}")
        object.__setattr__(self, "choices", tuple(self.choices))
        object.__setattr__(self, "type", self.type or self._usual_type())
        if self.type not in TYPES:
            raise ZooError(
                f"option {self.name!r}: expected a type of {', '.join(TYPES)}, got {self.type!r}."
                f"{did_you_mean(self.type, TYPES)}"
            )
        self.check(self.default)

    def _usual_type(self) -> str:
        if self.choices:
            return "choice"
        types: tuple[tuple[type, str], ...] = ((bool, "bool"), (int, "int"), (float, "float"), (str, "text"))
        return next((name for kind, name in types if isinstance(self.default, kind)), "")

    @property
    def expected(self) -> str:
        """What a value has to be, in words: "a number above 0 and at most 1"."""
        if self.type == "choice":
            return f"one of {', '.join(map(repr, self.choices))}"
        ends = {"above": self.above, "from": self.low, "to": self.high}
        said = [f"{word} {end:g}" for word, end in ends.items() if end is not None]
        none = ", or None" if self.default is None else ""
        return " ".join([TYPES[self.type], *said]) + none

    def check(self, value: Any) -> Any:
        """Return a value as the plugin gets it: a whole number for a "float" becomes a float.

        Raises:
            ZooError: it cannot be this option's.
        """
        if value is None and self.default is None:
            return None
        right = {
            "int": _is_int,
            "float": lambda number: _is_int(number) or isinstance(number, float),
            "bool": lambda flag: isinstance(flag, bool),
            "choice": lambda word: isinstance(word, str) and word in self.choices,
            "text": lambda text: isinstance(text, str),
        }.get(self.type, lambda other: other is not None)(value)
        if self.type in ("int", "float") and right:
            right = (
                not math.isnan(value)
                and (self.low is None or value >= self.low)
                and (self.high is None or value <= self.high)
                and (self.above is None or value > self.above)
            )
        if not right:
            near = did_you_mean(value, self.choices) if self.type == "choice" and isinstance(value, str) else ""
            raise ZooError(f"{self.name}: expected {self.expected}, got {value!r:.200}; it is: {self.help}.{near}")
        return float(value) if self.type == "float" else value


def check_options(known: Iterable[Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of all known options, in their order: those given, else the defaults.

    Raises:
        UnknownNameError: an option is given that is not known.
        ZooError: a value cannot be.
    """
    named = {option.name: option for option in known}
    for name in given:
        if name not in named:
            raise unknown_option(name, named)
    return {name: option.check(given[name]) if name in given else option.default for name, option in named.items()}


def unknown_option(name: str, known: Iterable[str]) -> UnknownNameError:
    """Return the error to raise for an option that the plugin does not have; `known` are those that it has."""
    known = sorted(known)
    listed = f"the options are {', '.join(known)}" if known else "this model takes no options"
    return UnknownNameError(f"no sampling option {name!r}: {listed}.{did_you_mean(name, known)}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
