"""`model.push(whole=True)`: push a whole model, with a card and samples, to a Hub repository in one commit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from zoo.bounded.json_text import parse_json
from zoo.errors import AdapterError, HubError
from zoo.formats import native
from zoo.hub import markup, model_card
from zoo.hub.model_card import Whole
from zoo.hub.publish import PushResult
from zoo.hub.push import (
    CARD,
    check_name,
    draw_for_card,
    facts_of,
    files_of,
    last_part,
    sent,
    shown,
    write_card,
)
from zoo.storage.atomic import write_json
from zoo.storage.file_names import ADAPTER_CONFIG
from zoo.storage.model_folder import write_digests
from zoo.weights.footprint import footprint

if TYPE_CHECKING:
    from zoo.adapters.adapter_set import AdapterSet
    from zoo.plugin.contract import LoadedModel
    from zoo.samples import Samples

ORIGIN = "_name_or_path"  # transformers' note of where a model was read


def push_model(
    model: LoadedModel,
    adapters: AdapterSet,
    repository: str,
    *,
    packed: bool = False,
    private: bool = False,
    branch: str | None = None,
    message: str | None = None,
    samples: Samples | None = None,
) -> PushResult:
    """Push the model with its active and merged adapters; see `zoo.Model.push`."""
    check_name(repository)
    if model.entry.plugin is None:
        raise AdapterError("a wrapped module cannot be pushed whole, as nothing could load it: push its adapter alone")
    drawn = samples if samples is not None else draw_for_card(model)
    with TemporaryDirectory(prefix="zoo-push-") as staging:
        root = Path(staging) / "model"
        native.save(model, root, False, adapters if packed else None)
        _without_paths(root)
        write_digests(root)
        whole = _described(model, adapters, root, packed, drawn)
        facts = facts_of(model, repository, branch)

        def content(present: Callable[[str], str | None]) -> Mapping[str, Path]:
            if present(ADAPTER_CONFIG) is not None:
                raise HubError(
                    f"{repository} holds an adapter, which would be loaded instead of the model: give another "
                    "repository, or another branch"
                )
            text = markup.compose(present(CARD), model_card.metadata(whole, facts), model_card.body(whole, facts))
            write_card(root, repository, text)
            return files_of(root)

        title = message or f"Add {Path(model.entry.name).name}"
        return sent(repository, content, message=title, private=private, branch=branch)


def _described(model: LoadedModel, adapters: AdapterSet, root: Path, packed: bool, drawn: Samples | None) -> Whole:
    """Return what the card says, and write the picture of samples that it shows."""
    seen = shown(drawn, root)
    inside = [*adapters.merged, *(name for name in adapters.weights if name not in adapters.merged)]
    return Whole(
        base={"name": last_part(model.entry.name), "weights": model.entry.weights, "revision": model.entry.revision},
        plugin=str(model.entry.plugin),
        records={name: adapters.records.get(name) or {} for name in inside},
        scheme=adapters.scheme,
        packed=packed,
        footprint=footprint(model.module),
        files=tuple(sorted(path.name for path in root.iterdir() if path.is_file())),
        **seen,
    )


def _without_paths(root: Path) -> None:
    """Remove this machine's paths from the configurations that libraries wrote."""
    for path in root.rglob("*.json"):
        if path.stat().st_size > 1 << 20:  # no configuration
            continue
        content: Any = parse_json(path.read_bytes(), str(path))
        if isinstance(content, dict) and content.get(ORIGIN) != last_part(content.get(ORIGIN)):
            write_json(path, {**content, ORIGIN: last_part(content[ORIGIN])})
