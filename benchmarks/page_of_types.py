"""docs/types.md, from the figures of model_types.py."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

VERBS = ("loss", "batches", "evaluate", "sample")
_LIBRARIES = {
    "transformers": "transformers",
    "diffusers": "diffusers",
    "timm": "timm",
    "torch_geometric": "torch-geometric",
}
_HEAD = """\
# Model types

What zoo does with {tried} model types of four libraries: {versions}.
Each is a small one with random weights, in a folder as its library saves it, loaded in 4 bit (nf4, nothing in 8) with a
LoRA of rank 2 on every weight. Written by
`benchmarks/model_types.py`, which says what each column means; `python benchmarks/model_types.py --json > figures` and
`--page figures` write it again.

| library | tried | taken | refused | every gradient | read again equal | loss and evaluate | sample |
|---|---|---|---|---|---|---|---|
"""
_TABLE = """
A row is of the types that are alike in all columns. 4 bit: the share of the values that are stored so. Gradients: every
factor on a weight that the library's own forward pass uses gets one. Saved: the library reads the saved model with the
same weights, and zoo the saved adapter.

| library: task | plugin | types | 4 bit | gradients | saved | verbs |
|---|---|---|---|---|---|---|
"""


def page(rows: list[dict[str, Any]]) -> str:
    """Return the page of the rows that `measure` returned, one for each type."""
    tried = [row for row in rows if "not made" not in row]
    text = _HEAD.format(
        tried=len(tried),
        versions=", ".join(f"{name} {version(package)}" for name, package in _LIBRARIES.items()),
    )
    for library in _LIBRARIES:
        text += _totals(library, [row for row in tried if row["library"] == library])
    text += _TABLE
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in tried:
        if "refused" not in row:
            groups[_alike(row)].append(row)
    text += "".join(_line(key, alike) for key, alike in sorted(groups.items(), key=lambda one: _order(one, rows)))
    return text + _reasons(tried) + _not_made(rows)


def _totals(library: str, rows: list[dict[str, Any]]) -> str:
    taken = [row for row in rows if "refused" not in row]
    counts = (
        len(taken),
        len(rows) - len(taken),
        sum(row["gradients"] is True for row in taken),
        sum(row["saved"] is True for row in taken),
        sum({"loss", "evaluate"} <= set(row["verbs"]) for row in taken),
        sum("sample" in row["verbs"] for row in taken),
    )
    return f"| {library} | {len(rows)} | {' | '.join(map(str, counts))} |\n"


def _alike(row: dict[str, Any]) -> tuple[str, ...]:
    called = "yes" if row["gradients"] is True else "no" if row["gradients"] is False else "not called"
    verbs = "all" if len(row["verbs"]) == len(VERBS) else ", ".join(row["verbs"]) or "none"
    saved = "yes" if row["saved"] is True else "no"
    return (f"{row['library']}: {row['task'].lower().replace('_', ' ')}", row["plugin"], called, saved, verbs)


def _order(one: tuple[tuple[str, ...], list[dict[str, Any]]], rows: list[dict[str, Any]]) -> tuple[int, int]:
    first = next(i for i, row in enumerate(rows) if (row["library"], row["task"]) == _place(one[1][0]))
    return first, -len(one[1])


def _place(row: dict[str, Any]) -> tuple[str, str]:
    return row["library"], row["task"]


def _line(key: tuple[str, ...], rows: list[dict[str, Any]]) -> str:
    task, plugin, gradients, saved, verbs = key
    shares = sorted(row["share"] for row in rows)
    share = f"{shares[0]:.0%}" if f"{shares[0]:.0%}" == f"{shares[-1]:.0%}" else f"{shares[0]:.0%} to {shares[-1]:.0%}"
    names = ", ".join(row["type"] for row in rows)
    return f"| {task} | {plugin} | {names} | {share} | {gradients} | {saved} | {verbs} |\n"


def _reasons(rows: list[dict[str, Any]]) -> str:
    text = "\n## Refused, and verbs that do not work\n\n"
    found: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        reasons = {"load": row["refused"]} if "refused" in row else row["reasons"]
        for verb, reason in reasons.items():
            found[_class_of(reason)].append(f"{row['type']} ({verb})")
    for reason, who in sorted(found.items(), key=lambda one: -len(one[1])):
        text += f"- {reason}: {_some(who)}\n"
    return text


# A part of a message -> what it means.
_MEANS = {
    "has no loss of its own": "its library computes no loss for the class, so it is trained by a loss of one's own",
    "zoo cannot sample from": "the class makes no text from text, so there is nothing that zoo could draw",
    "sees it, since": "a language model that sees the tokens it should predict: labels equal to the inputs are refused",
    "cannot continue a text": "a language model that sees the tokens it should predict continues no text",
    "cannot use the batch": "the library's forward needs other inputs than the general ones of this table",
    "computed no loss": "the library's forward makes its loss of other inputs than the general ones of this table",
    "which the batch lacks": "the library's forward makes its loss of other inputs than the general ones of this table",
    "could be the weights": "several layers of PyG have such weights: the error says how to tell which",
    "written in place": "the module rescales its weights in place while it generates, which managed weights refuse",
    "at least two tokens": "the tokenizer that the library has for the type does not read the small one of this table",
    "shape '[-1, 8, 0]'": "the small configuration of this table is none that the library's forward can use",
    "must match the size": "the small configuration of this table is none that the library's forward can use",
    "separator tokens": "the library's forward needs other inputs than the general ones of this table",
    "get_seq_length": "the small configuration of this table has no attention layer, which generating needs",
}


def _class_of(reason: str) -> str:
    found = next((means for part, means in _MEANS.items() if part in reason), None)
    return found or f"`{reason.partition(': ')[2][:110].strip() or reason[:110]}`".replace("|", "/")


def _some(who: list[str], most: int = 8) -> str:
    return ", ".join(who[:most]) + (f" and {len(who) - most} more" if len(who) > most else "")


def _not_made(rows: Iterable[dict[str, Any]]) -> str:
    names = [row["type"] for row in rows if "not made" in row]
    return f"\nNot tried, because no small one could be made by a general rule: {', '.join(dict.fromkeys(names))}.\n"
