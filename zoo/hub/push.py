"""`model.push`: push adapters with their model card and samples to a Hub repository, in one commit."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from zoo.catalog.names import is_repository
from zoo.errors import AdapterError, HubError, ZooError
from zoo.formats import manifest
from zoo.formats.manifest import read_json
from zoo.hub import card
from zoo.hub.card import SHEET, Facts, Item
from zoo.hub.publish import PushResult, publish
from zoo.hub.trouble import scrub, warn
from zoo.plugin import hooks
from zoo.plugin.requests import SampleRequest
from zoo.storage import atomic
from zoo.storage.file_names import ADAPTER_CONFIG, ADAPTER_TENSORS, MANIFEST

if TYPE_CHECKING:
    from zoo.adapters.adapter_set import AdapterSet
    from zoo.plugin.contract import LoadedModel
    from zoo.samples import Samples

CARD = "README.md"
COUNT = 8  # samples drawn for the card


def push(
    model: LoadedModel,
    adapters: AdapterSet,
    repository: str,
    name: str | None = None,
    *,
    private: bool = False,
    branch: str | None = None,
    message: str | None = None,
    samples: Samples | None = None,
) -> PushResult:
    """Push adapters of `model`; see `zoo.Model.push`."""
    from zoo.formats import saved

    check_name(repository)
    names = [name] if name is not None else list(adapters.configs)
    if not names:
        raise AdapterError("there is no adapter to push: load with lora=, or model.add_adapter")
    with TemporaryDirectory(prefix="zoo-push-") as staging:
        root = Path(staging)
        items = []
        for each in names:
            folder = "" if len(names) == 1 else each
            saved.save(adapters, root / folder, each)
            _without_paths(root / folder)
            drawn = samples if samples is not None else _draw(model, adapters, each)
            items.append(_item(each, folder, root / folder, drawn))
        facts = facts_of(model, repository, branch)

        def content(present: Callable[[str], str | None]) -> Mapping[str, Path]:
            write_card(root, repository, card.readme(present(CARD), items, facts))
            _describe(root)
            return files_of(root)

        what = "the adapter" if len(names) == 1 else "the adapters"
        title = message or f"Add {what} {', '.join(names)} for {Path(model.entry.name).name}"
        return sent(repository, content, message=title, private=private, branch=branch)


def check_name(repository: str) -> None:
    """Raise `HubError` unless this is a repository's name."""
    if not is_repository(repository):
        raise HubError(f"{repository!r}: not a repository's name, expected owner/name")


def write_card(root: Path, repository: str, text: str | None) -> None:
    """Write the repository's README; of None, which is for one that has to be left alone, warn."""
    if text is None:
        warn(f"{repository}: the metadata of its README.md is no YAML; it stays as it is, without a card")
    else:
        (root / CARD).write_bytes(scrub(text).encode())


def files_of(root: Path) -> dict[str, Path]:
    """Return every file below a folder, by its path in the repository."""
    return {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}


def sent(
    repository: str,
    content: Callable[[Callable[[str], str | None]], Mapping[str, Path]],
    *,
    message: str,
    private: bool,
    branch: str | None,
) -> PushResult:
    """Publish the content, see `publish`, and say so where the repository has all of it already."""
    done = publish(repository, content, message=message, private=private, branch=branch)
    if done.unchanged:
        warn(f"{repository}@{done.branch} has all of this already, in commit {done.sha}: nothing was pushed")
    return done


def shown(drawn: Samples | None, place: Path) -> dict[str, Any]:
    """Write what a card shows of samples into a folder: their picture, or the files of what is no text; see `Item`."""
    if drawn is None or not len(drawn):
        return {}
    seen = drawn.shown()
    sheet = Path(SHEET).suffix in drawn.suffixes
    if sheet:
        drawn.save(place / SHEET)
    if not sheet and all(one.text is not None for one in seen):
        return {"texts": tuple(str(one.text) for one in seen)}
    clips: list[str] = []
    if not sheet or any(one.clip is not None for one in seen):
        folder = drawn.save(place / Path(SHEET).stem)
        clips = sorted(path.relative_to(place).as_posix() for path in folder.iterdir())
    return {"sheet": sheet, "clips": tuple(clips)}


def draw_for_card(model: LoadedModel, prepare: Callable[[], object] = lambda: None) -> Samples | None:
    """Draw samples of the model once it is prepared; return None, with a warning, if that cannot be."""
    try:
        prepare()
        return hooks.draw(model, SampleRequest(COUNT, 0))
    except ZooError as error:
        warn(f"the card has no samples: {error}")
        return None


def _item(name: str, folder: str, place: Path, drawn: Samples | None) -> Item:
    return Item(
        name,
        folder,
        read_json(place / MANIFEST),
        read_json(place / ADAPTER_CONFIG),
        _for_peft(place / ADAPTER_TENSORS),
        **shown(drawn, place),
    )


def _draw(model: LoadedModel, adapters: AdapterSet, name: str) -> Samples | None:
    """Draw samples with only this adapter active; return None, with a warning, if the plugin draws none."""
    if model.entry.plugin is None:
        return None
    before = dict(adapters.weights)
    try:
        return draw_for_card(model, lambda: name in adapters.merged or adapters.activate([name], None))
    finally:
        adapters.apply(before)


def _for_peft(tensors: Path) -> bool:
    """Return whether PEFT knows every key: parts that PEFT cannot express have keys with zoo's prefix."""
    from safetensors import safe_open

    from zoo.formats.peft import keys

    with safe_open(tensors, framework="pt") as file:
        return not any(key.startswith(keys.ZOO_PREFIX) for key in file.keys())  # noqa: SIM118 - not a dict


def facts_of(model: LoadedModel, repository: str, branch: str | None) -> Facts:
    """Return a card's facts about the repository and the model."""
    kind = type(model.module)
    try:
        described = hooks.describe(model.entry) if model.entry.plugin and model.entry.config else {}
    except ZooError:
        described = {}
    module = (kind.__module__.partition(".")[0], kind.__name__)
    return Facts(repository, branch, module, model.entry.license, described)


def _without_paths(folder: Path) -> None:
    """Remove this machine's paths from the published files: a base in a local folder keeps only the folder's name."""
    content = read_json(folder / MANIFEST)
    config = read_json(folder / ADAPTER_CONFIG)
    base = content["base"]
    plain = {key: last_part(base.get(key)) for key in ("name", "weights")}
    if plain == {key: base.get(key) for key in plain} and not _is_path(config.get("base_model_name_or_path")):
        return
    content["base"] = {**base, **plain, "weights": None if _is_path(base.get("weights")) else base.get("weights")}
    config["base_model_name_or_path"] = last_part(config.get("base_model_name_or_path"))
    atomic.write_json(folder / ADAPTER_CONFIG, config)
    atomic.write_json(folder / MANIFEST, content)


def _is_path(value: Any) -> bool:
    """Return whether a name is the path of a local folder and not a repository."""
    parted = isinstance(value, str) and ("/" in value or "\\" in value)
    return parted and (not is_repository(value) or Path(value).exists())


def last_part(value: Any) -> Any:
    """Return the last part of a path of this machine; anything else as it is."""
    return Path(value.replace("\\", "/")).name if _is_path(value) else value


def _describe(root: Path) -> None:
    """Write into every `zoo.json` the digests of the files beside it."""
    for place in root.rglob(MANIFEST):
        content = read_json(place)
        content["sha256"] = manifest.digests(place.parent)
        place.write_bytes(scrub(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())
