"""Adapters of a GPT-2 in zoo and PEFT: load, save, swap and switch them, mixed batches, training steps by kind.

    python benchmarks/adapters.py [--rank 8] [--rounds 7] [--json] [--quick]

One process, one thread, CPU time, medians over interleaved rounds; ratios are ours to PEFT's in the same round, except
in a mixed batch, where they are to the base without adapters on the same batch. Both adapt the same layers of the same
weights at the same rank, and every output of ours is compared with PEFT's: a difference over 1e-4 ends the run.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
from timing import interleaved, median, ratio
from torch import Tensor, nn

import zoo

LAYERS = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
Calls = dict[str, Callable[[], object]]


def gpt2(quick: bool) -> nn.Module:
    """Return a GPT-2 of 12 layers of 768 with random weights; a tiny one if `quick`."""
    from transformers import GPT2Config, GPT2LMHeadModel

    size = {"n_layer": 2, "n_embd": 32, "n_head": 2, "vocab_size": 97} if quick else {"vocab_size": 8192}
    torch.manual_seed(0)
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(**size, **ends, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)).eval()


def lora(rank: int, **more: Any) -> peft.LoraConfig:
    """Return PEFT's configuration of a LoRA."""
    return peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=LAYERS, fan_in_fan_out=True, **more)


def spread(module: nn.Module) -> None:
    """Add noise to all factors, as after training: a new adapter's zero factor would hide every mistake."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if any(part in name for part in ("lora_", "hada_", "lokr_", "ia3_")):
                parameter.add_(torch.randn_like(parameter) * 0.02)


def differs(ours: Tensor, theirs: Tensor) -> float:
    """Return the relative difference of two outputs."""
    return float((ours - theirs).norm() / theirs.norm())


def agree(what: str, ours: Tensor, theirs: Tensor) -> None:
    """End the run if two outputs differ."""
    found = differs(ours.detach(), theirs.detach())
    if not found < 1e-4:
        raise SystemExit(f"{what}: ours and PEFT's outputs differ by {found:.1e}")


def against_peft(ours: Calls, theirs: Calls, rounds: int) -> dict[str, dict[str, float]]:
    """Return name → seconds of zoo's and PEFT's call, and their ratio."""
    found = {}
    for name, call in ours.items():
        seconds = interleaved({"zoo": call, "PEFT": theirs[name]}, rounds)
        found[name] = {
            "seconds": median(seconds["zoo"]),
            "peft_seconds": median(seconds["PEFT"]),
            "ratio": ratio(seconds["zoo"], seconds["PEFT"]),
        }
    return found


def handling(plain: nn.Module, rank: int, rounds: int, folder: Path) -> dict[str, dict[str, float]]:
    """Measure loading, saving, swapping and switching of two adapters that PEFT wrote, by both libraries."""
    from peft.utils.hotswap import hotswap_adapter

    theirs = peft.get_peft_model(copy.deepcopy(plain), lora(rank), adapter_name="one")
    theirs.add_adapter("two", lora(rank))
    spread(theirs)
    theirs.save_pretrained(folder)
    one, two = folder / "one", folder / "two"
    ours = zoo.wrap(copy.deepcopy(plain), lora={"one": one, "two": two})
    ids = torch.randint(0, 97, (2, 16))
    for name in ("one", "two"):
        ours.activate(name)
        theirs.set_adapter(name)
        agree(name, ours(ids).logits, theirs(ids).logits)

    def load() -> None:
        ours.add_adapter("new", one)
        ours.remove_adapter("new")

    def their_load() -> None:
        theirs.load_adapter(one, "new")
        theirs.delete_adapter("new")

    def switch() -> None:
        ours.activate("one")
        ours.activate("two")

    def their_switch() -> None:
        theirs.set_adapter("one")
        theirs.set_adapter("two")

    found = against_peft(
        {
            "load and remove": load,
            "save": lambda: ours.save_adapter(folder / "ours", "one"),
            "switch twice": switch,
            "swap in place": lambda: ours.swap_adapter("one", two),
        },
        {
            "load and remove": their_load,
            "save": lambda: theirs.save_pretrained(folder / "theirs", selected_adapters=["one"]),
            "switch twice": their_switch,
            "swap in place": lambda: hotswap_adapter(theirs, str(two), "one", "cpu"),
        },
        rounds,
    )
    ours.activate("one")
    theirs.set_adapter("one")
    agree("swapped", ours(ids).logits, theirs(ids).logits)
    return found


def mixed(plain: nn.Module, rank: int, rounds: int, quick: bool) -> dict[str, dict[str, float]]:
    """Measure a batch of 8 whose samples use four adapters or none; ratio to the base on the same batch."""
    names = ["one", "two", "three", "four"]
    theirs = peft.get_peft_model(copy.deepcopy(plain), lora(rank), adapter_name="one").eval()
    for name in names[1:]:
        theirs.add_adapter(name, lora(rank))
    spread(theirs)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = zoo.wrap(copy.deepcopy(plain), lora={name: Path(folder) / name for name in names})
    ids = torch.randint(0, 97, (8, 8 if quick else 64))
    each = [*names, None, "one", "two", None]
    theirs_each = [name or "__base__" for name in each]
    found: dict[str, dict[str, float]] = {}
    with torch.no_grad():
        agree("mixed", ours(ids, adapters=each).logits, theirs(ids, adapter_names=theirs_each).logits)
        ours.activate("one")
        theirs.set_adapter("one")
        seconds = interleaved(
            {
                "the base": lambda: plain(ids),
                "zoo, one adapter": lambda: ours(ids),
                "zoo, mixed": lambda: ours(ids, adapters=each),
                "PEFT, one adapter": lambda: theirs(ids),
                "PEFT, mixed": lambda: theirs(ids, adapter_names=theirs_each),
            },
            rounds,
        )
    for name, one in seconds.items():
        found[name] = {"seconds": median(one), "ratio": ratio(one, seconds["the base"])}
    return found


def kinds(plain: nn.Module, rank: int, rounds: int, folder: Path, quick: bool) -> dict[str, dict[str, float]]:
    """Measure forward and backward pass with each kind of adapter, the same one in both libraries."""
    import zoo_ia3  # noqa: F401 - the plugin must be there to read its adapters

    configs = {
        "LoRA": lora(rank),
        "DoRA": lora(rank, use_dora=True),
        "LoHa": peft.LoHaConfig(r=rank, alpha=rank, target_modules=["wq", "wo"]),
        "LoKr": peft.LoKrConfig(r=rank, alpha=rank, target_modules=["wq", "wo"]),
        "IA3": peft.IA3Config(target_modules=["wq", "wo"], feedforward_modules=[]),
    }
    ids = torch.randint(0, 97, (4, 8 if quick else 64))
    wide = plain.config.n_embd
    torch.manual_seed(1)
    stack = Stack(wide, 2 if quick else 8)
    x = torch.randn(4, 8 if quick else 128, wide)
    ours: Calls = {}
    theirs: Calls = {}
    for name, config in configs.items():
        base, inputs = (plain, ids) if name in ("LoRA", "DoRA") else (stack, x)
        model = peft.get_peft_model(copy.deepcopy(base), config)
        spread(model)
        model.save_pretrained(folder / name)
        mine = zoo.wrap(copy.deepcopy(base), lora=folder / name)
        agree(name, output(mine.module, inputs), output(model, inputs))
        ours[name] = step(mine.module, inputs)
        theirs[name] = step(model, inputs)
    return against_peft(ours, theirs, rounds)


class Stack(nn.Module):
    """Linear layers in sequence: PEFT's LoHa, LoKr and IA3 do not support transformers' `Conv1D`."""

    def __init__(self, wide: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleDict({"wq": nn.Linear(wide, wide), "wo": nn.Linear(wide, wide)}) for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs of the shape of `x`."""
        for layer in self.layers:
            x = x + layer["wo"](torch.tanh(layer["wq"](x)))
        return x


def output(module: nn.Module, inputs: Tensor) -> Tensor:
    """Return a module's output or logits."""
    result = module(inputs)
    return result if isinstance(result, Tensor) else result.logits


def step(module: nn.Module, inputs: Tensor) -> Callable[[], None]:
    """Return a function of one forward and backward pass."""

    def run() -> None:
        output(module, inputs).square().mean().backward()
        module.zero_grad(set_to_none=True)

    return run


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--quick", action="store_true", help="a tiny model, 2 rounds: checks the script, measures nothing"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rounds = 2 if options.quick else options.rounds
    plain = gpt2(options.quick)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        found["handling"] = handling(plain, options.rank, rounds, Path(folder))
        found["kinds"] = kinds(plain, options.rank, rounds, Path(folder), options.quick)
    found["mixed"] = mixed(plain, options.rank, rounds, options.quick)
    if options.json:
        print(json.dumps({"rank": options.rank, "rounds": rounds, "figures": found}, indent=1))
        return
    for title, group in (("Handling, ratio to PEFT's", "handling"), ("A step, ratio to PEFT's", "kinds")):
        print(f"{title:<28}{'zoo ms':>10}{'PEFT ms':>10}{'ratio':>8}")
        for name, cells in found[group].items():
            print(
                f"{name:<28}{cells['seconds'] * 1e3:>10.1f}{cells['peft_seconds'] * 1e3:>10.1f}{cells['ratio']:>8.2f}"
            )
    print(f"{'A batch of 8, no grad':<28}{'ms':>10}{'to the base':>18}")
    for name, cells in found["mixed"].items():
        print(f"{name:<28}{cells['seconds'] * 1e3:>10.1f}{cells['ratio']:>18.2f}")


if __name__ == "__main__":
    main()
