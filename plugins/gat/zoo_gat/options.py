"""What can be chosen when nodes are classified."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo import Option

if TYPE_CHECKING:
    from zoo import Entry


def sample_kinds(entry: Entry) -> list[str]:
    """Return that samples are probabilities of classes, of which a graph says whether they exclude each other."""
    return ["posterior", "probabilities"]


def sample_options(entry: Entry) -> list[Option]:
    """Return which nodes of which graph are classified."""
    return [
        Option("nodes", None, "nodes by number or name, repeated to n; None: drawn", "numbers", each=True),
        Option("data", None, "the graph [letters:sans]", type="data"),
        Option("neighbors", None, "how many neighbours to hear in each layer; None: all", type="numbers"),
    ]
