"""YAML that anybody may have written: plain values alone, within the bounds of `text.py`."""

from __future__ import annotations

from typing import Any

from zoo.bounded.text import DEPTH, check_values

SIZE = 1 << 20
EVENTS = 200_000
REPEATED = 1000  # aliases
LONGEST = 128  # characters of a number or a date
_NUMBERS = frozenset("0123456789abcdefABCDEFxo:._+-")


def yaml_value(text: str) -> Any:
    """Return what a YAML text stands for.

    Raises:
        ValueError: it is no YAML, holds other than plain values, or is beyond the bounds.
    """
    import yaml  # type: ignore[import-untyped]

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    if len(text) > SIZE:
        raise ValueError(f"longer than {SIZE} characters")
    try:
        _check(yaml.parse(text, loader))
        content = yaml.load(text, loader)
        check_values(content, EVENTS)
    except (yaml.YAMLError, RecursionError, OverflowError, TypeError, AttributeError) as fault:
        raise ValueError(str(fault)) from fault
    return content


def _check(events: Any) -> None:
    """Check a text's events, before anything is made of them."""
    import yaml

    depth = aliases = 0
    for number, event in enumerate(events):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        aliases += isinstance(event, yaml.AliasEvent)
        if depth > DEPTH or aliases > REPEATED or number > EVENTS:
            raise ValueError("too deep, or of too many values")
        plain = isinstance(event, yaml.ScalarEvent) and event.style is None
        if plain and len(event.value) > LONGEST and set(event.value) <= _NUMBERS:
            raise ValueError(f"a number of {len(event.value)} characters")
