"""The model card of pushed adapters: base model, how to load them, training, metrics and samples."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.catalog.names import is_commit, is_repository
from zoo.data.report import SEEN
from zoo.formats.manifest import bits_of
from zoo.hub import markup
from zoo.hub.markup import block, inline, table

SHEET = "samples.png"
_LICENSES = frozenset(
    """
    afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bsd bsd-2-clause bsd-3-clause bsl-1.0 cc0-1.0 cc-by-4.0 cc-by-sa-4.0
    cc-by-nc-4.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 gpl-2.0 gpl-3.0 isc lgpl-3.0 mit mpl-2.0 openrail creativeml-openrail-m
    llama2 llama3 gemma unlicense wtfpl
    """.split()  # noqa: SIM905 - one string is easier to read
)


@dataclass(frozen=True)
class Item:
    """One adapter of a push.

    Attributes:
        name: the adapter's name.
        folder: its folder in the repository, "" for the root.
        record: the content of its `zoo.json`.
        config: the content of its `adapter_config.json`.
        peft: whether PEFT can load it.
        texts: samples that are texts.
        sheet: whether there is a picture of samples beside it.
        clips: the files of samples beside it that are neither.
    """

    name: str
    folder: str
    record: Mapping[str, Any]
    config: Mapping[str, Any]
    peft: bool
    texts: Sequence[str] = ()
    sheet: bool = False
    clips: Sequence[str] = ()

    def path(self, file: str) -> str:
        """Return the path of one of its files in the repository."""
        return f"{self.folder}/{file}" if self.folder else file


@dataclass(frozen=True)
class Facts:
    """The facts of a card about the repository and the base model.

    Attributes:
        repository: `owner/name`.
        branch: the branch that is pushed to, None for the default one.
        module: package and class of the base model's module.
        license: the base model's licence.
        described: facts from the plugin's `describe` hook.
    """

    repository: str
    branch: str | None
    module: tuple[str, str]
    license: str | None
    described: Mapping[str, str]


def metadata(items: Sequence[Item], facts: Facts) -> dict[str, Any]:
    """Return the card's metadata, in the Hub's format."""
    base = hub_base(items[0].record)
    found: dict[str, Any] = {}
    if base:
        found |= {"base_model": base, "base_model_relation": "adapter"}
    found["library_name"] = "peft" if all(item.peft for item in items) else "adapter-zoo"
    found |= license_of(facts)
    tags = [str(item.record.get(key)) for item in items for key in ("kind", "architecture") if item.record.get(key)]
    found["tags"] = list(dict.fromkeys([*tags, "zoo"]))
    return found


def license_of(facts: Facts) -> dict[str, str]:
    """Return the licence as the Hub's metadata have it; nothing if it is not known."""
    if not facts.license:
        return {}
    known = facts.license.lower()
    if known in _LICENSES:
        return {"license": known}
    return {"license": "other", "license_name": " ".join(facts.license.split())[:100]}


def body(items: Sequence[Item], facts: Facts) -> str:
    """Return the card's text."""
    title = facts.repository.split("/")[1]
    parts = [f"# {title}"]  # a repository's name has no character that Markdown would read
    if len(items) > 1:
        parts.append(f"{len(items)} adapters, each in a folder of its name.")
    for item in items:
        if len(items) > 1:
            parts.append(f"## {inline(item.name)}")
        parts += [_sentence(item), *samples_of(item)]
    parts += ["## Load with zoo", block(_with_zoo(items, facts), "python")]
    loadable = [item for item in items if item.peft]
    if loadable:
        parts += ["## Load with PEFT", block(_with_peft(loadable[0], facts), "python")]
    for item in items:
        suffix = f" of {inline(item.name)}" if len(items) > 1 else ""
        parts += training_and_metrics(item, suffix)
    parts += ["## Base", table(("", ""), _base_rows(items[0].record, facts))]
    return "\n\n".join(parts)


def hub_base(record: Mapping[str, Any]) -> str | None:
    """Return the Hub repository of the base model's weights, if they are in one."""
    base = record.get("base")
    weights = base.get("weights") if isinstance(base, Mapping) else None
    return weights if isinstance(weights, str) and is_repository(weights) else None


def _base(record: Mapping[str, Any]) -> Mapping[str, Any]:
    base = record.get("base")
    return base if isinstance(base, Mapping) else {}


def _sentence(item: Item) -> str:
    config, base = item.config, _base(item.record)
    size = [f"rank {inline(config['r'])}"] if "r" in config else []
    size += [f"alpha {inline(config['lora_alpha'])}"] if "lora_alpha" in config else []
    targets = item.record.get("targets")
    scope = {None: "", "all": ", on every weight"}.get(targets if isinstance(targets, str | None) else "", "")
    if isinstance(targets, list | str) and targets != "all":
        scope = f", on {inline(', '.join(map(str, targets)) if isinstance(targets, list) else targets)}"
    hub = hub_base(item.record)
    shown = f"[{inline(hub)}](https://huggingface.co/{hub})" if hub else inline(base.get("name", "its base"))
    kind = str(item.record.get("kind") or "lora")
    title = {"lora": "LoRA", "loha": "LoHa", "lokr": "LoKr"}.get(kind, inline(kind))
    sizes = f" ({', '.join(size)})" if size else ""
    return f"A {title} adapter{sizes}{scope}, for {shown}."


def samples_of(item: Item) -> list[str]:
    """Return what a card shows of samples: a picture, the files of what is neither picture nor text, or some texts."""
    parts = [f"![Samples]({item.path(SHEET)})"] if item.sheet else []
    links = [f"[{name}]({item.path(name)})" for name in item.clips]
    parts += [f"Samples: {', '.join(links)}"] if links else []
    return parts or [block(text[:2000]) for text in item.texts[:3]]


def _with_zoo(items: Sequence[Item], facts: Facts) -> str:
    at = f"@{facts.branch}" if facts.branch else ""
    places = {item.name: f"{facts.repository}{'/' if item.folder else ''}{item.folder}{at}" for item in items}
    item, first = items[0], next(iter(places.values()))
    name, bits = _callable_name(item.record), bits_of(item.record)
    stored = "" if bits is None else f", bits={_quoted(bits) if isinstance(bits, str) else bits}"
    if name is None:
        module = "module = ...  # the torch.nn.Module that it was made for"
        return f"import zoo\n\n{module}\nmodel = zoo.wrap(module{stored}, lora={_quoted(first)})"
    several = ", ".join(f"{_quoted(each)}: {_quoted(place)}" for each, place in places.items())
    lora = f"{{{several}}}" if len(items) > 1 else _quoted(first)
    lines = (
        "import zoo",
        "",
        f"model = zoo.load({_quoted(first)}{stored})  # its base too",
        f"model = zoo.load({_quoted(name)}{stored}, lora={lora})",
        "model.sample(4)",
    )
    return "\n".join(lines)


def _with_peft(item: Item, facts: Facts) -> str:
    """Return code that loads the adapter with PEFT alone, in the form that the base model's library needs."""
    base, imports = _base_code(item, facts)
    revision = f", revision={_quoted(facts.branch)}" if facts.branch else ""
    if facts.module[0] == "transformers":
        where = f", subfolder={_quoted(item.folder)}" if item.folder else ""
        imports = {*imports, "from peft import PeftModel"}
        lines = [f"model = PeftModel.from_pretrained(base, {_quoted(facts.repository)}{where}{revision})"]
    else:  # PeftModel would hide attributes that a pipeline or timm needs: inject the adapter into the module itself
        imports = {
            *imports,
            "from huggingface_hub import snapshot_download",
            "from peft import PeftConfig, inject_adapter_in_model, set_peft_model_state_dict",
            "from safetensors.torch import load_file",
        }
        inner = f" + {_quoted('/' + item.folder)}" if item.folder else ""
        lines = [
            f"folder = snapshot_download({_quoted(facts.repository)}{revision}){inner}",
            "inject_adapter_in_model(PeftConfig.from_pretrained(folder), base)",
            'set_peft_model_state_dict(base, load_file(f"{folder}/adapter_model.safetensors"))',
        ]
    return "\n".join([*sorted(imports), "", base, *lines])


def _base_code(item: Item, facts: Facts) -> tuple[str, set[str]]:
    """Return the line that loads the base model with its own library, and its imports."""
    package, kind = facts.module
    hub, name, commit = hub_base(item.record), _callable_name(item.record), _base(item.record).get("commit")
    pinned = is_commit(commit) if isinstance(commit, str) else False
    if hub and package in ("transformers", "diffusers") and kind.isidentifier():
        revision = f", revision={_quoted(str(commit))}" if pinned else ""
        return f"base = {kind}.from_pretrained({_quoted(hub)}{revision})", {f"from {package} import {kind}"}
    if hub and package == "timm":
        place = _quoted(f"hf-hub:{hub}{f'@{commit}' if pinned else ''}")
        return f"base = timm.create_model({place}, pretrained=True)", {"import timm"}
    if name is not None:
        return f"base = zoo.load({_quoted(name)}).module", {"import zoo"}
    return "base = ...  # the torch.nn.Module that it was made for", set()


def training_and_metrics(item: Item, suffix: str) -> list[str]:
    """Return the sections about how an adapter was trained, and how good it is, with a suffix of their titles."""
    parts: list[str] = []
    runs = item.record.get("training")
    rows = [_run(run) for run in runs if isinstance(run, Mapping)] if isinstance(runs, list) else []
    if rows:
        head = ("data", "steps", "batch size", "learning rate", "loss at first", "loss at last")
        parts += [f"## Training{suffix}", table(head, rows)]
    metrics = item.record.get("metrics")
    values = metrics.get("figures") if isinstance(metrics, Mapping) else None
    if isinstance(metrics, Mapping) and isinstance(values, Mapping) and values:
        seen = values.get(SEEN)
        some = (
            f"data of which {seen:.0%} were trained on" if isinstance(seen, int | float) and seen else "held-out data"
        )
        data = f"On {some}, {inline(metrics.get('data'))}:"
        shown = [(name, _number(value)) for name, value in values.items()]
        parts += [f"## Metrics{suffix}", data, table(("metric", "value"), shown)]
    return parts


def _run(run: Mapping[str, Any]) -> tuple[object, ...]:
    keys = ("data", "steps", "batch_size", "lr", "first_loss", "last_loss")
    return tuple(_number(run.get(key)) for key in keys)


def _base_rows(record: Mapping[str, Any], facts: Facts) -> list[tuple[object, ...]]:
    base, versions = _base(record), record.get("versions")
    stored = f"{record['bits']} bit, {record.get('scheme')}" if record.get("bits") else "as in its checkpoint"
    error = record.get("quantization_error")
    if record.get("bits") and isinstance(error, int | float):
        stored += f", relative error of the weights {error:.2%}"
    if isinstance(average := record.get("average"), int | float):
        stored = f"{average:g} bit on average, from {record.get('scheme')} up"
    rows: list[tuple[object, ...]] = [
        ("name", base.get("name")),
        ("architecture", record.get("architecture") or base.get("plugin")),
        ("commit", base.get("commit")),
        ("fingerprint of its weights", base.get("fingerprint")),
        ("licence", facts.license),
        ("precision during training", stored),
        *facts.described.items(),
    ]
    if isinstance(versions, Mapping):
        rows.append(("made with", ", ".join(f"{name} {version}" for name, version in versions.items())))
    return [row for row in rows if row[1]]


def _callable_name(record: Mapping[str, Any]) -> str | None:
    """Return the name under which `zoo.load` finds the base anywhere: a registry name or Hub repository, no folder."""
    from zoo.catalog.names import is_name

    base = _base(record)
    name = base.get("name")
    if not base.get("plugin") or not isinstance(name, str):
        return None
    plain = is_name(name) and all(c.isalnum() or c in "._-" for c in name) and name.isascii()
    weights = base.get("weights")
    known = weights in (None, "embedded") or (isinstance(weights, str) and is_repository(weights))
    return name if known and (plain or is_repository(name)) else None


def _quoted(text: str) -> str:
    return json.dumps(text)


def _number(value: Any) -> object:
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.6g}"
    return "–" if value is None else value


def readme(existing: str | None, items: Sequence[Item], facts: Facts) -> str | None:
    """Return the repository's README with the card in it; None if the existing one has to be left alone."""
    return markup.compose(existing, metadata(items, facts), body(items, facts))
