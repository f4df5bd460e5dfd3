"""The verb that says what tuning a model would take: plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from zoo.catalog.names import is_name
from zoo.cli.names import MODEL
from zoo.cli.options import adapter_of, bits_option, keep_option, targets_option
from zoo.cli.output import Command, json_option, note, print_facts, print_json, size

if TYPE_CHECKING:
    from zoo.planning.estimate import Plan


@click.command(
    cls=Command,
    examples="""
    zoo plan gpt2 --lora 16 --bits 4 --batch-size 8 --length 512
    zoo plan llama-3-70b --lora 16 --gpu 80GB
    zoo plan gpt3-175b --lora 4 --targets q_proj,v_proj
    zoo plan ddpm-cifar10 --full --gpu rtx4090 --json
    """,
)
@click.argument("name", type=MODEL)
@click.option("--lora", type=click.IntRange(min=1), metavar="RANK", help="An adapter's rank [default: 8].")
@targets_option
@click.option("--full", is_flag=True, help="Every weight trains, and no adapter.")
@bits_option("Bits per weight, or on average over the model [default: the compute type's].")
@keep_option
@click.option("--batch-size", type=click.IntRange(min=1), help="Items in a batch [default: that of zoo tune].")
@click.option("--length", type=click.IntRange(min=2), help="Tokens in each row of a batch of text.")
@click.option("--data", metavar="WHAT", help="What a batch is made of [default: the plugin's].")
@click.option("--gpu", metavar="NAME|SIZE", help="A card such as h200, or its memory such as 80GB: does it fit?")
@click.option("--dtype", metavar="TYPE", help="The compute type [default: bfloat16 with --gpu, else float32].")
@click.option("--ema", is_flag=True, help="With a moving average of what trains, as zoo tune --ema-decay keeps it.")
@click.option("--gradient-checkpointing", is_flag=True, help="Compute activations again in the backward pass.")
@click.option("--weights", metavar="WHERE", help="Other weights: a Hub repository or a local folder.")
@click.option("--revision", metavar="SHA", help="The Hub repository's commit.")
@json_option
def plan(
    name: str,
    lora: int | None,
    targets: Any,
    full: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Say what tuning NAME would take: bytes and operations.

    From the configuration alone: the model is built without values, and no weight is read. With --gpu also whether that
    card holds the run, and with which settings it would.
    """
    from zoo.catalog import registry

    if full and (lora is not None or targets is not None):
        raise click.UsageError(
            "--full trains every weight, and --lora and --targets are an adapter's: give one of them"
        )
    if is_name(name):
        registry.find(name)  # an unknown name should not wait for torch
    import zoo

    chosen = None if full else adapter_of(None if lora is None else str(lora), targets)
    made = zoo.plan(name, lora=chosen, full=full, **settings)
    if as_json:
        print_json(made.as_dict())
    else:
        print_facts(_facts(made))
    if made.unknown is not None:
        note(f"activations, peak and operations are not known: {made.unknown}")


def _facts(made: Plan) -> dict[str, str]:
    shapes = ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in made.shapes.items() if shape)
    facts = {
        "name": made.name,
        "stored in": made.dtype if made.bits is None else f"{made.bits} bit, computed in {made.dtype}",
        "adapter": made.adapter or "none: every weight trains",
        "parameters": f"{made.parameters:,}",
        "trainable": f"{made.trainable:,}" + (f" ({made.fewer:,.0f} × fewer)" if made.fewer > 1.05 else ""),
        "weights": _of(made.weights + made.adapters, made.adapters, "of the adapter"),
        "gradients": size(made.gradients),
        "optimizer": size(made.optimizer),
        "batch": f"{made.batch_size} ({shapes})" if shapes else str(made.batch_size),
    }
    if made.peak is not None and made.activations is not None and made.flops is not None:
        again = ", computed again in the backward pass" if made.checkpointing else ""
        facts["activations"] = size(made.activations) + again
        facts["peak"] = size(made.peak)
        facts["operations"] = f"{made.flops:.3g} a step"
    if made.card is not None:
        usable = f"{made.card.name}, {size(made.card.usable)} of it usable"
        facts["fits"] = {True: f"yes, {usable}", False: f"no, {usable}", None: "not known"}[made.fits]
        for number, change in enumerate(made.would_fit):
            facts["would fit with" if number == 0 else "or with" + " " * number] = (
                f"{' '.join(map(_option, change.settings.items()))} (peak {size(change.peak)})"
            )
        if made.fits is False and not made.would_fit:
            facts["would fit with"] = "no settings that were tried: shard it over several cards, or take a larger one"
    return facts


def _of(whole: int, part: int, whose: str) -> str:
    return f"{size(whole)}, {size(part)} {whose}" if part else size(whole)


def _option(pair: tuple[str, Any]) -> str:
    """Return a changed setting as the command line takes it."""
    name, value = pair
    return f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")


COMMANDS = (plan,)
