"""What can be chosen when images are classified."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo import Option

from .facts import configuration, task_of

if TYPE_CHECKING:
    from zoo import Entry


def sample_kinds(entry: Entry) -> list[str]:
    """Return that samples are probabilities of classes; of a regression, texts."""
    return {"regress": ["text"], "multilabel": ["probabilities"]}.get(task_of(configuration(entry)), ["posterior"])


def sample_options(entry: Entry) -> list[Option]:
    """Return which images are classified, and how many classes are shown."""
    return [
        Option("images", None, "pictures to classify", type="images", each=True),
        Option("paths", None, "a file, a folder, or a list of files to classify", type="data"),
        Option("data", None, "data of whose held-out images n are drawn [letters:sans]", type="data"),
        Option("top_k", 5, "how many of the likeliest classes are shown", low=1),
    ]
