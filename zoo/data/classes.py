"""Classes are names: those of the data become the model's numbers, by name wherever both have names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from zoo.errors import DataError

_SHOWN = 8


def are_names(names: Sequence[str]) -> bool:
    """Return whether a model's classes have names, not just numbers ("3", "LABEL_3")."""
    return not all(name in (str(i), f"LABEL_{i}") for i, name in enumerate(names))


def bind_classes(
    found: Sequence[str],
    names: Sequence[str],
    *,
    model: str,
    also: Mapping[str, int] | None = None,
) -> tuple[list[int], str]:
    """Return the model's number of each of the data's classes, and what to say about it ("" if all are equal).

    By name where the model's classes have names, else letter case, spaces and underscores aside. Classes that are
    numbers are the model's numbers. A model whose classes have no names takes as many names as it has classes, sorted.

    Args:
        found: the data's classes, all that any of their splits has.
        names: the model's, in order.
        model: what messages call the model.
        also: further names of the model's classes → number (synonyms, WordNet's ids).

    Raises:
        DataError: a class of the data is none of the model's, or two are the same.
    """
    known = {name: i for i, name in reversed(list(enumerate(names)))}
    exact = {**(also or {}), **known}
    if are_names(names) or not names:
        loose: dict[str, set[int]] = {}
        for name, number in exact.items():
            loose.setdefault(plain(name), set()).add(number)
        near = {name: loose.get(plain(name), set()) for name in found if name not in exact}
        unmatched = [name for name, numbers in near.items() if len(numbers) != 1]
        if unmatched:
            raise _unmatched(unmatched, found, names, model)
        numbers = [exact[name] if name in exact else next(iter(near[name])) for name in found]
        _check_distinct(found, numbers, names, model)
        said = [f"{name} is {names[next(iter(numbers))]}" for name, numbers in near.items()]
        return numbers, f"classes by name but for case and spaces: {', '.join(said)}" if said else ""
    if all(name in exact for name in found):  # LABEL_3
        return [exact[name] for name in found], ""
    if all(re.fullmatch(r"0|[1-9]\d*", name) and int(name) < len(names) for name in found):
        return [int(name) for name in found], ""
    if len(found) == len(names):
        numbered = {name: i for i, name in enumerate(in_order(found))}
        pairs = ", ".join(f"{i} {name}" for name, i in numbered.items())
        return [numbered[name] for name in found], f"the classes of {model} have no names: they become {pairs}"
    raise DataError(
        f"{model} tells {len(names)} classes apart, which have no names, and the data have {len(found)} "
        f"({_listed(found)}): load it with classes=[…], the names in order"
    )


def in_order(names: Iterable[str]) -> list[str]:
    """Return names sorted as people sort them: "2" before "10"."""
    return sorted(names, key=_natural)


def plain(name: str) -> str:
    """Return a class's name without letter case, spaces, hyphens and underscores."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _natural(name: str) -> list[tuple[bool, str]]:
    parts = re.split(r"(\d+)", name)
    return [(part.isdecimal(), part.zfill(20) if part.isdecimal() else part) for part in parts]


def _check_distinct(found: Sequence[str], numbers: Sequence[int], names: Sequence[str], model: str) -> None:
    first: dict[int, str] = {}
    for name, number in zip(found, numbers, strict=True):
        if first.setdefault(number, name) != name:
            raise DataError(
                f"the data's classes {first[number]!r} and {name!r} are both {names[number]!r} of {model}: "
                "give them one name"
            )


def _unmatched(unmatched: list[str], found: Sequence[str], names: Sequence[str], model: str) -> DataError:
    return DataError(
        f"{len(unmatched)} of the data's {len(found)} classes are none of {model}'s {len(names)}: "
        f"{_listed(unmatched)}. Its classes are {_listed(names) or 'none'}: rename them in the data, say which is "
        f'which, zoo.Data(…, classes={{"{unmatched[0]}": "{names[0] if names else "…"}"}}), or load the model with '
        "classes=[…] for a new head"
    )


def _listed(names: Sequence[str]) -> str:
    more = f", … ({len(names)})" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
