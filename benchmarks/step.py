"""Training step and forward pass: zoo in 32, 8 and 4 bit, its peers and the frozen floor.

    python benchmarks/step.py [--models bert unet rows-1 …] [--dtypes float32 bfloat16] [--rank 8] [--json] [--quick]

A step is forward, loss and backward; the optimizer is the same for all and left out. The *frozen floor* is the model
without adapters, its weights frozen, with an input that requires grad: the gradient flows through every layer to the
input, and nothing is computed for any weight. Every library adapts the same layers at the same rank, zoo every weight
where the peers know no layer. Rounds run all variants in an order that is rotated and reversed (CPU time of one thread;
wall time on CUDA); ratios are to the floor in the same round, the median and in brackets the quartiles. Memory is what
a step keeps for backward (CPU: saved tensors, each storage once, parameters not counted; CUDA: max_memory_allocated
over what was allocated before the step). PEFT as `get_peft_model` makes it, which keeps float32 factors in bfloat16.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import peers
import torch
from subjects import SUBJECTS, Subject
from timing import Ratio, interleaved, median, spread
from torch import Tensor, nn

FLOOR = "frozen floor"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def variants(plain: nn.Module, layers: list[str], rank: int) -> peers.Variants:
    """Return name → the model in that form, or why there is none. B is not zero, unlike a new adapter's."""
    import zoo

    plain.requires_grad_(False).train()
    lora = zoo.LoRA(rank=rank, alpha=rank, targets=layers or "all")
    models: peers.Variants = {FLOOR: plain}
    for name, bits in (("zoo LoRA", None), ("zoo 4-bit LoRA", 4), ("zoo 8-bit LoRA", 8)):
        models[name] = zoo.wrap(copy.deepcopy(plain), bits=bits, lora=lora).module
    models |= peers.variants(plain, layers, rank)
    for module in models.values():
        if isinstance(module, nn.Module):
            module.train()
            for parameter in module.parameters():
                if parameter.requires_grad:
                    nn.init.normal_(parameter, std=0.01)
    return models


@contextmanager
def kept_bytes(module: nn.Module, found: list[int]) -> Iterator[None]:
    """Append to `found` the bytes that a graph built in the block keeps for its backward pass."""
    parameters = {tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *module.buffers())}
    storages: dict[int, tuple[int, Any]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = (storage.nbytes(), tensor.detach())  # alive, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield
    found.append(sum(size for size, _ in storages.values()))


def step_memory(module: nn.Module, step: Callable[[], object], forward: Callable[[], Tensor], device: str) -> int:
    """Return the bytes that a step keeps for its backward pass.

    Args:
        module: the model.
        step: forward and backward pass.
        forward: forward pass with a graph.
        device: where they run.
    """
    if device.startswith("cuda"):
        step()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    found: list[int] = []
    with kept_bytes(module, found):
        forward()
    return found[0]


def measure(
    subject: Subject, dtype: torch.dtype, rank: int, rounds: int, device: str
) -> dict[str, dict[str, Any] | str]:
    """Return variant → its measurements, or why there are none."""
    results: dict[str, dict[str, Any] | str] = {}
    steps, forwards = {}, {}
    inputs = subject.inputs.to(device, dtype)
    plain = copy.deepcopy(subject.module).to(device, dtype)
    for name, module in variants(plain, subject.layers, rank).items():
        if isinstance(module, str):
            results[name] = module
            continue

        def loss(module: nn.Module = module, floor: bool = name == FLOOR) -> Tensor:
            return subject.loss(module, inputs.detach().requires_grad_(floor))

        def step(module: nn.Module = module, loss: Callable[[], Tensor] = loss) -> None:
            loss().backward()
            module.zero_grad(set_to_none=True)

        def forward(loss: Callable[..., Tensor] = loss, module: nn.Module = module) -> Tensor:
            with torch.no_grad():
                return loss(module, False)

        try:
            step()
        except Exception as error:
            results[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            continue
        results[name] = {"kept_bytes": step_memory(module, step, loss, device)}
        steps[name], forwards[name] = step, forward
    for task, calls in (("step", steps), ("forward", forwards)):
        seconds = interleaved(calls, rounds, device)
        for name, one in seconds.items():
            low, middle, high = spread(one, seconds[FLOOR])
            results[name][task] = {"seconds": median(one), "low": low, "ratio": middle, "high": high}  # type: ignore[index]
    return results


def table(results: dict[str, dict[str, Any] | str]) -> list[list[str]]:
    """Return the rows of one model's table: variant, step, forward, MiB kept for backward."""
    rows = []
    for variant, cells in results.items():
        if isinstance(cells, str):
            rows.append([variant, f"not possible: {cells}", "", ""])
            continue
        times = []
        for task in ("step", "forward"):
            cell = cells[task]
            shown = Ratio(cell["low"], cell["ratio"], cell["high"])
            times.append(f"1 ({cell['seconds'] * 1e3:.3g} ms)" if variant == FLOOR else str(shown))
        rows.append([variant, *times, f"{cells['kept_bytes'] / 2**20:.1f} MiB"])
    return rows


def main() -> None:
    """Print a table for each model and dtype."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS))
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--quick", action="store_true", help="tiny models, 2 rounds: checks the script, measures nothing"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rounds = 2 if options.quick else options.rounds
    found: dict[str, Any] = {}
    for name in options.models:
        torch.manual_seed(0)
        subject = SUBJECTS[name](options.quick)
        title = (SUBJECTS[name].__doc__ or "").removeprefix("Return ").rstrip(".")
        found[name] = {"title": title}
        for dtype in options.dtypes:
            results = measure(subject, DTYPES[dtype], options.rank, rounds, options.device)
            found[name][dtype] = results
            if options.json:
                continue
            print(f"{title}; {dtype}, rank {options.rank}: ratio to the frozen floor, {rounds} rounds")
            print(f"{'':<18}{'step':>22}{'forward, no grad':>22}{'kept for backward':>20}")
            for variant, *cells in table(results):
                if not cells[1]:
                    print(f"{variant:<18}  {cells[0]}")
                else:
                    print(f"{variant:<18}{cells[0]:>22}{cells[1]:>22}{cells[2]:>20}", flush=True)
    if options.json:
        print(json.dumps({"rank": options.rank, "rounds": rounds, "device": options.device, "figures": found}))


if __name__ == "__main__":
    main()
