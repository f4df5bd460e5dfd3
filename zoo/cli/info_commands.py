"""The commands that print facts and load no model: list, info, plugins."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from zoo.catalog.entry import EMBEDDED
from zoo.catalog.names import is_name
from zoo.cli.names import MODEL
from zoo.cli.options import adapter_of, bits_option, keep_option, targets_option
from zoo.cli.output import (
    Command,
    json_option,
    note,
    print_facts,
    print_json,
    print_table,
    progress_line,
    size,
)
from zoo.errors import ZooError

if TYPE_CHECKING:
    from zoo.catalog.entry import Entry
    from zoo.plugin.options import Option
    from zoo.weights.footprint import Footprint

_NON_COMMERCIAL = ("non-commercial", "noncommercial", "-nc")


@click.command(
    "list",
    cls=Command,
    examples="""
    zoo list
    zoo list "vit*"
    zoo list --plugin ddpm
    zoo list --json | jq '.[].name'
    """,
)
@click.argument("pattern", required=False, type=MODEL)
@click.option("--plugin", metavar="NAME", help="Only the models of this architecture.")
@json_option
def list_models(pattern: str | None, plugin: str | None, as_json: bool) -> None:
    """List the models in the registries, or those whose names match PATTERN, such as "vit*"."""
    from zoo.catalog import registry
    from zoo.catalog.listing import matching

    found = matching(pattern, plugin)
    for problem in registry.problems():
        note(f"warning: left out: {problem}")
    if as_json:
        print_json([_facts(entry) for entry in found])
        return
    rows = [(entry.name, str(entry.plugin), entry.weights or "none", _license(entry), entry.summary) for entry in found]
    print_table(("name", "plugin", "weights", "license", "summary"), rows)


@click.command(
    cls=Command,
    examples="""
    zoo info ddpm
    zoo info ddpm-cifar10 --footprint
    zoo info gpt2 --bits 4 --lora 8 --json
    zoo info gpt2 --bits auto:4.5
    zoo info bert --bits 4 --errors
    """,
)
@click.argument("name", type=MODEL)
@click.option("--footprint", is_flag=True, help="Parameters and bytes, from the structure alone (imports torch).")
@bits_option("Footprint in this precision, or of this average.")
@keep_option
@click.option("--lora", type=int, metavar="RANK", help="Footprint with LoRA of this rank.")
@targets_option
@click.option("--errors", is_flag=True, help="How far quantizing moves the weights, which it loads and quantizes.")
@json_option
def info(
    name: str,
    footprint: bool,
    bits: int | str | None,
    keep: tuple[str, ...],
    lora: int | None,
    targets: Any,
    errors: bool,
    as_json: bool,
) -> None:
    """Show the facts of model NAME, and its footprint."""
    from zoo.catalog import registry
    from zoo.formats.heads import head_of
    from zoo.loading.resolve import resolve
    from zoo.plugin import hooks

    entry = registry.find(name) if is_name(name) else resolve(name)
    if entry.config or entry.weights == EMBEDDED:
        entry = resolve(name, download=False)
    facts = _facts(entry)
    adapter = _adapter(entry)
    if entry.adapter is not None:
        entry = replace(entry, head=head_of(entry.adapter))
    tasks: tuple[str, ...] = ()
    options: tuple[Option, ...] = ()
    try:
        described = hooks.describe(entry) if entry.config else {}
        tasks = hooks.heads(entry).tasks if entry.config else ()
        options = hooks.sample_options(entry) or () if entry.config else ()
    except ZooError as error:  # the registry's facts are still worth printing
        note(f"warning: {error}")
        described = {}
    new = adapter_of(None if lora is None else str(lora), targets)
    measured = _footprint(name, bits, keep, new, errors) if footprint or bits or keep or new or errors else None
    if as_json:
        more: dict[str, Any] = {"config": entry.config, "facts": described, "heads": list(tasks)}
        more["options"] = [asdict(option) for option in options]
        if entry.adapter is not None:
            more["adapter"] = {"folder": entry.adapter, **adapter}
        if measured is not None:
            more["footprint"] = asdict(measured)
        print_json({**facts, **more})
        return
    usual = entry.targets or "all"
    shown = {
        **_adapter_facts(name, adapter),
        "name": entry.name,
        "summary": entry.summary,
        "plugin": str(entry.plugin),
        "weights": _weights(entry),
        "license": _license(entry),
        "lora targets": usual if isinstance(usual, str) else ", ".join(usual),
        "kept in full precision": ", ".join(entry.keep),
        **described,
        "new heads": ", ".join(tasks),
        **{f"option {option.name}": _option(option) for option in options},
        **(_footprint_facts(measured) if measured is not None else {}),
    }
    print_facts({label: text for label, text in shown.items() if text})


@click.command(
    cls=Command,
    examples="""
    zoo plugins
    zoo plugins --quick
    zoo plugins --check mine
    zoo plugins --check --device sim mine
    ZOO_PLUGINS=ddpm zoo plugins --check --json
    """,
)
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--check", is_flag=True, help="Check every promise of every hook, which takes half a minute each.")
@click.option(
    "--device",
    default="cpu",
    metavar="DEVICE",
    show_default=True,
    help="Where --check has its models: cpu, cuda, or sim, which finds without a GPU what would fail or wait on one.",
)
@click.option("--quick", is_flag=True, help="Only import each one and look at its hooks.")
@json_option
def plugins(names: tuple[str, ...], check: bool, quick: bool, as_json: bool, device: str) -> int:
    """Show the installed plugins (or these) and their health.

    --check and --quick exit with 1 if one of them is broken, and name the promise, its hook, and how to keep it.
    """
    from zoo.cli import plugin_status

    level: plugin_status.Level = "quick" if quick else "full" if check else "none"
    with progress_line() as report:
        rows = plugin_status.plugins(level, names, report, device)
    faults = plugin_status.faults()
    if as_json:
        print_json({"plugins": [asdict(row) for row in rows], "faults": faults})
    else:
        columns = ["name", "version", "distribution", "kind", "health", "hooks"]
        cells = [[r.name, r.version, r.distribution, r.kind or "?", r.state, ", ".join(r.hooks) or "?"] for r in rows]
        if level == "full":
            columns.insert(5, "promises kept")
            for row, cell in zip(rows, cells, strict=True):
                done = [one for one in row.checks if one.ok is not None]
                cell.insert(5, f"{sum(one.ok is True for one in done)} of {len(done)}")
        print_table(columns, cells)
    reasons = [f"{row.name} is broken: {reason}" for row in rows for reason in row.reasons]
    for fault in (*reasons, *faults):
        note(f"error: {fault}")
    return 1 if level != "none" and (reasons or faults) else 0


def _option(option: Option) -> str:
    """Return an option of `sample` in a line."""
    default = "" if option.default is None else f" [{option.default}]"
    return f"{option.help}; {option.expected.removesuffix(', or None')}{default}"


def _facts(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "plugin": entry.plugin,
        "summary": entry.summary,
        "weights": entry.weights,
        "revision": entry.revision,
        "license": entry.license,
        "targets": entry.targets or "all",
        "keep": entry.keep,
        "source": entry.source,
    }


def _adapter(entry: Entry) -> dict[str, Any]:
    """Return the record of the saved adapter that the entry is of, if it is of one."""
    if entry.adapter is None:
        return {}
    from zoo.formats.manifest import read_json, record
    from zoo.storage.file_names import ADAPTER_CONFIG

    recorded, file = record(entry.adapter), entry.adapter / ADAPTER_CONFIG
    config = read_json(file) if file.is_file() else {}
    kind = recorded.get("kind") or str(config.get("peft_type", "")).lower() or "unknown"
    return {"kind": kind, "rank": config.get("r"), "alpha": config.get("lora_alpha"), **recorded}


def _adapter_facts(name: str, adapter: dict[str, Any]) -> dict[str, str]:
    if not adapter:
        return {}
    size = f", rank {adapter['rank']}, alpha {adapter['alpha']}" if adapter["rank"] else ""
    runs = adapter.get("training")
    trained = [
        f"{run.get('steps')} steps on {run.get('data')}, loss {run.get('first_loss')} → {run.get('last_loss')}"
        for run in (runs if isinstance(runs, list) else ())
        if isinstance(run, dict)
    ]
    return {"adapter": f"{name} ({adapter['kind']}{size})", "trained": "; ".join(trained), "for the base": " "}


def _weights(entry: Entry) -> str:
    if entry.weights is None or entry.weights == EMBEDDED or entry.source == "folder":
        return entry.weights or "none"
    return f"{entry.weights} @ {entry.revision or 'the newest commit (not pinned)'}"


def _license(entry: Entry) -> str:
    text = entry.license or "unknown"
    restricted = any(mark in text.lower() for mark in _NON_COMMERCIAL)
    return f"{text} (not for commercial use)" if restricted else text


def _footprint(name: str, bits: int | str | None, keep: tuple[str, ...], lora: Any, with_values: bool) -> Footprint:
    import zoo

    device = None if with_values else "meta"
    return zoo.load(name, bits=bits, keep=keep, lora=lora, device=device).footprint()


def _footprint_facts(footprint: Footprint) -> dict[str, str]:
    share = footprint.bytes / footprint.bytes_16bit if footprint.bytes_16bit else 0.0
    return {
        "parameters": f"{footprint.parameters:,}",
        "trainable": f"{footprint.trainable:,}",
        "size": f"{size(footprint.bytes)} ({share:.1%} of 16 bit)",
        "quantized": f"{footprint.quantized_share:.2%} of the parameters",
        "adapted": f"{footprint.adapted_share:.2%} of the parameters",
        "error": "" if footprint.error is None else _errors(footprint.error, footprint.errors),
    }


def _errors(error: float, errors: dict[str, float]) -> str:
    worst = ", ".join(f"{name} {one:.2%}" for name, one in list(errors.items())[:3])
    return f"quantizing moved the weights by {error:.2%} of their size; the most: {worst}"


COMMANDS = (list_models, info, plugins)
