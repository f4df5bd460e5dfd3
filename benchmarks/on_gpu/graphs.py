"""CUDA graphs: a forward and a LoRA step of a managed module, captured once and replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

import zoo
from on_gpu.cases import CASES
from on_gpu.clock import in_turns, release
from on_gpu.parts import Row, Setup
from on_gpu.record import failed


def rows(setup: Setup) -> Iterator[Row]:
    """Yield eager and replayed times of each architecture, and the difference of the results."""
    if not setup.device.startswith("cuda"):
        yield {"model": "all", "skipped": "a CPU has no CUDA graphs"}
        return
    for name in ("bert", "gpt", "vit", "ddpm", "vae", "stylegan", "gat"):
        try:
            case = CASES[name](setup._replace(quick=True))  # small: launches are what a graph saves
            model = zoo.wrap(case.module, bits=4, lora=zoo.LoRA(rank=8, targets="all"))
            for _, parameter in model.trainable_parameters():
                nn.init.normal_(parameter, std=0.01)
            module = model.module.eval()
            factors = [parameter for _, parameter in model.trainable_parameters()]
            tasks: dict[str, Callable[[], Tensor]] = {
                "forward": lambda: _forward(lambda: case.loss(module, False)),  # noqa: B023 - called at once
                "step": lambda: _step(lambda: case.loss(module, False), factors),  # noqa: B023
            }
        except Exception as trouble:
            yield failed({"model": name}, trouble)
            continue
        for task, run in tasks.items():
            row = {"model": case.what, "task": task}
            try:
                yield {**row, **captured(run, setup.device)}
            except Exception as trouble:
                torch.cuda.synchronize()
                yield failed(row, trouble)
        release(setup.device)


def _forward(loss: Callable[[], Tensor]) -> Tensor:
    with torch.no_grad():
        return loss().reshape(1)


def _step(loss: Callable[[], Tensor], factors: list[nn.Parameter]) -> Tensor:
    found = torch.autograd.grad(loss(), factors, allow_unused=True)
    return torch.stack([one.float().square().sum() for one in found if one is not None])


def captured(run: Callable[[], Tensor], device: str) -> dict[str, float]:
    """Return times of a call and of its graph, and the relative difference of what the two return."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            expected = run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    graph.replay()
    torch.cuda.synchronize()
    off = float((result - expected).norm() / expected.norm().clamp(min=1e-30))
    times = in_turns({"eager": run, "replayed": graph.replay}, 7, device)
    return {"eager ms": times["eager"] * 1e3, "replayed ms": times["replayed"] * 1e3, "off": off}
