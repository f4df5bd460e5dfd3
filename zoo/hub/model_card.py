"""The card of a whole model: what it is made of, how to load it, training, metrics and samples."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.catalog.names import is_repository
from zoo.hub.card import Facts, Item, license_of, samples_of, training_and_metrics
from zoo.hub.markup import block, inline, table

if TYPE_CHECKING:
    from zoo.weights.footprint import Footprint
    from zoo.weights.scheme import Quantization

LIBRARIES = ("transformers", "diffusers")  # whose classes load a repository by its name


@dataclass(frozen=True)
class Whole:
    """What is in the repository.

    Attributes:
        base: name, weights and revision of what the model was made from.
        plugin: its architecture.
        records: the record of each adapter in it by name.
        scheme: the quantization of the weights in memory.
        packed: whether quantized weights are written as they are.
        footprint: parameters and bytes.
        files: the files' names.
        texts: samples that are texts.
        sheet: whether there is a picture of samples.
        clips: the files of samples that are neither.
    """

    base: Mapping[str, Any]
    plugin: str
    records: Mapping[str, Mapping[str, Any]]
    scheme: Quantization | None
    packed: bool
    footprint: Footprint
    files: tuple[str, ...]
    texts: tuple[str, ...] = ()
    sheet: bool = False
    clips: tuple[str, ...] = ()


def metadata(whole: Whole, facts: Facts) -> dict[str, Any]:
    """Return the card's metadata, in the Hub's format."""
    found: dict[str, Any] = {}
    weights = whole.base.get("weights")
    if isinstance(weights, str) and is_repository(weights):
        found |= {"base_model": weights, "base_model_relation": "finetune" if whole.records else "quantized"}
        if not whole.records and not whole.packed:
            del found["base_model_relation"]
    found["library_name"] = facts.module[0] if _by_library(whole, facts) else "adapter-zoo"
    found |= license_of(facts)
    found["tags"] = list(dict.fromkeys([whole.plugin, "zoo"]))
    return found


def body(whole: Whole, facts: Facts) -> str:
    """Return the card's text."""
    inside = ", with " + ", ".join(map(inline, whole.records)) + " merged into it" if whole.records else ""
    parts = [f"# {facts.repository.split('/')[1]}", f"{inline(whole.base.get('name'))}{inside}."]
    parts += samples_of(Item("", "", {}, {}, False, whole.texts, whole.sheet, whole.clips))
    branch = f"@{facts.branch}" if facts.branch else ""
    place = json.dumps(f"{facts.repository}{branch}")
    parts += ["## Load with zoo", block(f"import zoo\n\nmodel = zoo.load({place})\nmodel.sample(4)", "python")]
    if _by_library(whole, facts):
        package, kind = facts.module
        revision = f", revision={json.dumps(facts.branch)}" if facts.branch else ""
        code = f"model = {kind}.from_pretrained({json.dumps(facts.repository)}{revision})"
        parts += [f"## Load with {package}", block(f"from {package} import {kind}\n\n{code}", "python")]
    for name, record in whole.records.items():
        suffix = f" of {inline(name)}" if len(whole.records) > 1 else ""
        parts += training_and_metrics(Item(name, "", record, {}, False), suffix)
    parts += ["## Model", table(("", ""), _rows(whole, facts))]
    return "\n\n".join(parts)


def _by_library(whole: Whole, facts: Facts) -> bool:
    """Return whether the model's library loads the repository by itself."""
    package, kind = facts.module
    return package in LIBRARIES and kind.isidentifier() and "zoo_packed.json" not in whole.files


def _rows(whole: Whole, facts: Facts) -> list[tuple[object, ...]]:
    size = whole.footprint
    stored = "full precision"
    if whole.packed and whole.scheme is not None:
        stored = f"{whole.scheme.argument} bit, {whole.scheme.scheme}, as they are in memory"
    elif whole.scheme is not None:
        stored = f"full precision, from {whole.scheme.argument} bit"
    rows: list[tuple[object, ...]] = [
        ("made from", whole.base.get("name")),
        ("its weights", whole.base.get("weights")),
        ("its commit", whole.base.get("revision")),
        ("architecture", whole.plugin),
        ("parameters", f"{size.parameters:,}"),
        ("weights", stored),
        ("error of quantizing", "" if size.error is None else f"{size.error:.2%} of the weights' size"),
        ("licence", facts.license),
        *facts.described.items(),
    ]
    return [row for row in rows if row[1]]
