"""A step (forward, loss, backward) and a forward of each architecture: zoo, PEFT, the frozen floor, torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from on_gpu.cases import CASES, Case, variants
from on_gpu.clock import in_turns, peak, release
from on_gpu.parts import Row, Setup
from on_gpu.record import failed

COMPILED = ("gpt", "ddpm")  # the others' compilation takes longer than the budget allows


def rows(setup: Setup) -> Iterator[Row]:
    """Yield a row for each architecture and variant; the compiled ones come last."""
    for name in ("bert", "ddpm") if setup.quick else CASES:
        yield from _rows(setup, name, compiled=False)
        release(setup.device)
    for name in () if setup.quick else COMPILED:
        yield from _rows(setup, name, compiled=True)
        release(setup.device)


def _rows(setup: Setup, name: str, compiled: bool) -> Iterator[Row]:
    try:
        case = CASES[name](setup)
    except Exception as trouble:
        yield failed({"model": name}, trouble)
        return
    made = variants(case)
    if compiled:
        made = {"zoo 4-bit LoRA": made["zoo 4-bit LoRA"]}
    found: dict[str, Callable[[], nn.Module]] = {"frozen floor": lambda: case.module.train(), **made}
    for variant, make in found.items():
        row = {"model": name, "what": case.what, "variant": variant + (", compiled" if compiled else "")}
        try:
            module = make()
            if compiled:
                module = torch.compile(module)  # type: ignore[assignment]
            yield {**row, **_measured(setup, case, module, variant == "frozen floor")}
        except Exception as trouble:
            yield failed(row, trouble)
        module = None  # type: ignore[assignment]
        release(setup.device)


def _measured(setup: Setup, case: Case, module: nn.Module, is_floor: bool) -> Row:
    def step(module: nn.Module, floor: bool) -> Callable[[], None]:
        def run() -> None:
            case.loss(module, floor).backward()
            module.zero_grad(set_to_none=True)

        return run

    def forward(module: nn.Module) -> Callable[[], None]:
        def run() -> None:
            with torch.no_grad():
                case.loss(module, False)

        return run

    rounds = 2 if setup.quick else 7
    row: dict[str, float] = {}
    tasks = {
        "step": (step(module, is_floor), step(case.module, True)),
        "forward": (forward(module), forward(case.module)),
    }
    for task, (mine, floor) in tasks.items():
        mine()
        floor()
        times = in_turns({"mine": mine, "floor": floor}, rounds, setup.device)
        row |= {f"{task} ms": times["mine"] * 1e3, f"{task} ×": times["mine"] / times["floor"]}
    row["peak MiB"] = peak(tasks["step"][0], setup.device) / 2**20
    return row
