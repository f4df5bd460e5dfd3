"""Overhead of a managed weight where the arithmetic costs nothing: a chain of 600 Linear(64) on 16 rows.

    python benchmarks/small_layers.py [--json] [--quick]

Every result is a ratio to the plain chain's time for the same task, the median over interleaved rounds.
"""

from __future__ import annotations

import argparse
import copy
import json

import torch
from timing import interleaved, median, ratio, task_of
from torch import nn

WIDTH, ROWS, RANK = 64, 16, 8
TASKS = ("forward, no grad", "forward", "forward and backward")


def variants(layers: int) -> dict[str, nn.Module | str]:
    """Return name → the chain in that state, or why there is none."""
    import zoo

    torch.manual_seed(0)
    plain = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(layers))).requires_grad_(False)
    models: dict[str, nn.Module | str] = {"plain, frozen": plain}
    lora = zoo.LoRA(rank=RANK, alpha=RANK, targets="all")
    for name, bits in (("zoo LoRA", None), ("zoo 4-bit LoRA", 4)):
        models[name] = zoo.wrap(copy.deepcopy(plain), bits=bits, lora=lora).module
    for name, act in (("deactivated", "deactivate"), ("merged", "merge")):
        model = zoo.wrap(copy.deepcopy(plain), lora=lora)
        getattr(model, act)()
        models[f"zoo {name}"] = model.module
    try:
        import peft
    except ImportError:
        models["PEFT LoRA"] = models["PEFT deactivated"] = models["PEFT merged"] = "peft is not installed"
        return models
    config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=r"\d+")
    for name, act in (("LoRA", None), ("deactivated", "disable_adapter_layers"), ("merged", "merge_adapter")):
        wrapped = peft.get_peft_model(copy.deepcopy(plain), config)
        if act:
            getattr(wrapped, act)()
        models[f"PEFT {name}"] = wrapped
    return models


def main() -> None:
    """Print a row for each variant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="10 layers, 2 rounds: checks the script, measures nothing")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    layers, rounds = (10, 2) if options.quick else (options.layers, options.rounds)
    found = variants(layers)
    modules = {name: model.to(options.device) for name, model in found.items() if isinstance(model, nn.Module)}
    x = torch.randn(ROWS, WIDTH, device=options.device, requires_grad=True)
    results: dict[str, dict[str, dict[str, float]]] = {name: {} for name in modules}
    for task in TASKS:
        calls = {name: task_of(module, task, x) for name, module in modules.items()}
        seconds = interleaved(calls, rounds, options.device)
        floor = seconds["plain, frozen"]
        for name, one in seconds.items():
            results[name][task] = {"seconds": median(one), "ratio": ratio(one, floor)}
    if options.json:
        print(json.dumps({"layers": layers, "rounds": rounds, "figures": results}, indent=1))
        return
    print(f"{layers} x Linear({WIDTH}), {ROWS} rows, rank {RANK}: ratio to the plain chain (ms)")
    print(f"{'':<18}" + "".join(f"{task:>24}" for task in TASKS))
    for name, model in found.items():
        if isinstance(model, str):
            print(f"{name:<18}  not possible: {model}")
            continue
        cells = (f"{cell['ratio']:.2f} ({cell['seconds'] * 1e3:.1f})" for cell in results[name].values())
        print(f"{name:<18}" + "".join(f"{cell:>24}" for cell in cells))


if __name__ == "__main__":
    main()
