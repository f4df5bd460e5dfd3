"""The command that trains: tune, from words or from a run file."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.catalog.entry import EMBEDDED, RANDOM
from zoo.catalog.names import is_name
from zoo.cli.model_commands import parse_options
from zoo.cli.names import MODEL
from zoo.cli.options import (
    AUTO,
    adapter_fields,
    column_option,
    head_options,
    targets_option,
    tuned_model_options,
    without_number,
)
from zoo.cli.output import Command, echo, json_option, note, print_json
from zoo.cli.tune_options import tuning_options
from zoo.tuning.interrupts import Terminated

if TYPE_CHECKING:
    from zoo.loading.run_files import Finished

FILE = ".toml"
_LOADING = ("weights", "revision", "bits", "device", "classes", "task", "image_size", "channels")


@click.command(
    cls=Command,
    examples="""
    zoo tune ddpm --data letters:serif --bits 4 --steps 200
    zoo tune gpt --data notes.txt --lora 16 --lr 1e-3 --out runs/notes
    zoo tune gpt --data notes.txt --lora 16 --lr 1e-3 --out runs/notes --resume
    zoo tune gpt --data notes.txt --bits 4 --dry-run
    zoo tune gpt --data notes.txt --lora 4 --targets attn.c_attn,attn.c_proj
    zoo tune run.toml --out runs/again
    zoo tune runs/notes/run.toml --resume --steps 400
    zoo tune ddpm --data pictures/ --full --steps 1000
    zoo tune bert --data reviews.csv --classes auto --epochs 3 --eval-every 50 --patience 3
    zoo tune gat --full --minutes 2 --out my-gat
    zoo tune vit --steps 200 --tracker tensorboard --project letters
    """,
)
@click.argument("name", type=MODEL, metavar="NAME|FILE.toml")
@click.option(
    "--data", metavar="WHAT", help="A folder, a file or a name such as letters:serif [default: the plugin's]."
)
@column_option
@tuning_options
@click.option("--lora", metavar="RANK|WHERE", help="Rank, or an adapter to go on with [default: 8, or NAME's own].")
@targets_option
@click.option(
    "--full",
    is_flag=True,
    help="Train every weight, not an adapter; with --minutes from random weights unless --weights says otherwise.",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="The run's folder [default: runs/NAME].")
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["peft", "diffusers", "kohya"]),
    help="Whose files the adapter is written as [default: peft].",
)
@click.option("--push", metavar="OWNER/NAME", help="Where on the Hub the adapter goes afterwards.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in the run's folder.")
@click.option("--seed", type=click.IntRange(min=0), help="Of what is random at the start, and the data [default: 0].")
@click.option("--dtype", metavar="NAME", help="The compute type, such as bfloat16 [default: the device's].")
@head_options
@tuned_model_options
@click.option("--dry-run", is_flag=True, help="Train nothing, and print the run as a file.")
@json_option
def tune(
    name: str,
    data: str | None,
    columns: tuple[tuple[str, str], ...],
    lora: str | None,
    targets: Any,
    full: bool,
    out: Path | None,
    file_format: str | None,
    push: str | None,
    resume: bool,
    seed: int | None,
    dtype: str | None,
    keep: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
    **more: Any,
) -> None:
    """Train an adapter on your data, or every weight, and save it.

    With a run file instead of a NAME, what is given beside it counts instead of what is in it. Each run's folder has
    its own, `run.toml`, from which it can be run again.

    From random weights, and with the settings that the plugin has for it, --full --minutes trains a whole model, which
    is written into the folder --out.
    """
    if sum(more[budget] is not None for budget in ("steps", "minutes", "epochs")) > 1:
        raise click.UsageError("give one of --steps, --minutes and --epochs")
    from_file = name.endswith(FILE)
    if from_file and targets is not None and lora is None:
        raise click.UsageError("--targets beside a run file make a new adapter: give --lora RANK too")
    loading = {key: more.pop(key) for key in _LOADING}
    if full and targets is not None:
        raise click.UsageError("--full trains every weight, and --targets are an adapter's: give one of them")
    if not from_file:
        if full and more["minutes"] is not None and loading["weights"] is None:
            loading["weights"] = RANDOM
            note(f"starting from random weights (--weights {EMBEDDED}, or another place, starts from trained ones)")
        if (full or (loading["weights"] == RANDOM and lora is targets is None)) and file_format not in (None, "peft"):
            raise click.UsageError(
                "--format is of an adapter's files, and --full writes the model in its library's own"
            )
        if columns and data is None:
            raise click.UsageError("--column names columns of the data: give --data")
        if loading["classes"] == AUTO and data is None:
            raise click.UsageError(f"--classes {AUTO} reads the names from the data: give --data, or the classes")
    suffixes, checkpoints = without_number(keep)
    more["optimizer_options"] = parse_options(more["optimizer_options"], "'--optimizer-option'") or None
    size = loading["image_size"]
    content = {
        "seed": seed,
        "out": None if out is None else str(out),
        "format": file_format,
        "model": {
            **loading,
            "image_size": list(size) if isinstance(size, tuple) else size,
            "dtype": dtype,
            "keep": list(suffixes) or None,
            "lora": adapter_fields(lora, targets),
            "full": full or None,
        },
        "data": {"source": data, "columns": dict(columns) or None},
        "tune": {
            **{key: list(value) if isinstance(value, tuple) else value for key, value in more.items() if value != ()},
            "keep": checkpoints,
        },
        **({} if push is None else {"push": {"repository": push}}),
    }
    if not from_file and is_name(name):
        from zoo.catalog import registry

        registry.find(name)  # an unknown name should not wait for torch
    from zoo.loading.run_files import perform, planned
    from zoo.runs.reading import checked, merged, read_run

    path = Path(name)
    before = _without_budget(read_run(path), content) if from_file else {"model": {"name": name}}
    settings = checked(merged(before, content), str(path) if from_file else "zoo tune")
    if dry_run:
        echo(planned(settings), nl=False)
        return
    started = time.time()
    try:
        done = perform(settings, resume=resume)
    except (KeyboardInterrupt, Terminated) as stop:
        from zoo.loading.run_files import folder_of

        note(_how_to_resume(folder_of(settings), started))
        raise click.exceptions.Exit(stop.code if isinstance(stop, Terminated) else 130) from None
    if done.result.main_process:
        _say(done, settings.model.name, settings.model.bits, as_json)


def _without_budget(content: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return a file's settings without those that cannot stand beside what the words say."""
    budgets, adapters = {"steps", "minutes", "epochs"}, {"lora", "adapters", "full"}
    for table, group in (("tune", budgets), ("model", adapters), ("model", {"bits", "quantization"})):
        inner = content.get(table)
        if isinstance(inner, dict) and any(given[table].get(key) is not None for key in group):
            content = {**content, table: {key: value for key, value in inner.items() if key not in group}}
    return content


def _say(done: Finished, name: str, bits: int | str | None, as_json: bool) -> None:
    """Print what a run has left."""
    result, saved = done.result, done.saved
    metrics = dict(done.metrics or {})
    if as_json:
        facts = {key: getattr(result, key) for key in ("steps", "seconds", "loss", "losses", "stopped", "best_step")}
        facts["evaluations"] = [{"step": step, **figures} for step, figures in result.evaluations]
        facts["data"] = [report.as_dict() for report in result.reports]
        pushed = {} if done.pushed is None else {"pushed": done.pushed.url}
        print_json(
            {
                "name": name,
                **facts,
                "seed": result.seed,
                "saved": saved,
                **({"metrics": metrics} if metrics else {}),
                **pushed,
            }
        )
        return
    note(result.summary())
    for label, value in metrics.items():
        note(f"held out: {label} {value:.6g}")
    if result.report is not None:
        note(f"report: {result.report}")
    if done.pushed is not None:
        note(f"pushed: {done.pushed.url}")
    place = str(saved) if "/" in str(saved) else f"./{saved}"  # a name without a slash is looked up in the registry
    stored = "" if bits is None else f" --bits {bits}"
    adapter = f"zoo sample {shlex.quote(name)}{stored} --lora {shlex.quote(str(saved))}"
    note(f"try it: {f'zoo sample {shlex.quote(place)}' if done.whole else adapter}")
    echo(str(saved))


def _how_to_resume(out: Path, started: float) -> str:
    """Return what to type after Ctrl-C, if this run has left a checkpoint."""
    fresh = out.is_dir() and any(path.stat().st_mtime >= started - 1 for path in out.iterdir())
    context = click.get_current_context()
    words = [shlex.quote(word) for word in context.obj or ()]
    if not fresh:
        return f"interrupted before the first checkpoint: nothing is left in {out}"
    again = " ".join(["zoo", *words, *([] if "--resume" in words else ["--resume"])])
    return f"interrupted: to go on from the last checkpoint, type {again}"


COMMANDS = (tune,)
