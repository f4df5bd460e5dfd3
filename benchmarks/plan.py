"""How near `zoo.plan` is to what a run takes: weights, gradients, optimizer and peak, predicted and measured.

    python benchmarks/plan.py                 # every embedded model and gpt2, with adapters in 4 bit, and in full
    python benchmarks/plan.py gpt ddpm

Each run is measured in a process of its own, from its first step on: bytes of tensors as they are stored, the peak by
torch's own records of every allocation (`torch.profiler`), kernels' temporary ones included, and beside it the growth
of the process, which has torch's code and the allocator's reserves in it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

EMBEDDED = ("ddpm", "vit", "vae", "gat", "gpt", "bert", "stylegan")
STEPS = {"stylegan": 16}  # its penalties fall due every fourth and sixteenth step
RANDOM = {"gpt2": {"batch_size": 2, "length": 128}}


def settings(name: str, full: bool) -> dict[str, Any]:
    """Return the arguments of `zoo.plan` for one run."""
    chosen: dict[str, Any] = {"full": True} if full else {"lora": 8, "bits": 4}
    return {**chosen, **RANDOM.get(name, {}), "batch_size": RANDOM.get(name, {}).get("batch_size", 16)}


def predict(name: str, full: bool) -> dict[str, float]:
    """Return what is predicted, in bytes."""
    import zoo

    made = zoo.plan(name, **settings(name, full))
    peak = made.peak or 0
    return {
        "weights": made.weights + made.adapters,
        "gradients": made.gradients,
        "optimizer": made.optimizer,
        "peak": peak,
    }


def measure(name: str, full: bool) -> dict[str, float]:
    """Return what a run takes, in bytes."""
    import torch

    import zoo

    chosen = settings(name, full)
    model = zoo.load(
        name,
        lora=chosen.get("lora"),
        bits=chosen.get("bits"),
        weights="random" if name in RANDOM else None,
        seed=0,
        device="cpu",
    )
    length = chosen.get("length")
    data = None if length is None else torch.randint(1, 1000, (4 * chosen["batch_size"], length))
    kept = [*model.module.parameters(), *model.module.buffers()]
    weights = sum(tensor.numel() * tensor.element_size() for tensor in {id(one): one for one in kept}.values())
    found: dict[str, float] = {"weights": weights}

    states: list[Any] = []
    made = torch.optim.AdamW.__init__

    def remembered(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        states.append(self)

    torch.optim.AdamW.__init__ = remembered  # type: ignore[method-assign]
    gradients: list[int] = []
    step = torch.optim.AdamW.step

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        own = [one.grad for group in self.param_groups for one in group["params"] if one.grad is not None]
        gradients.append(sum(one.numel() * one.element_size() for one in own))
        return step(self, *args, **kwargs)

    torch.optim.AdamW.step = watched  # type: ignore[method-assign]
    profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
    before = 0

    def first(batch: Any) -> Any:
        nonlocal before
        del model.loss  # type: ignore[method-assign]
        batches.append(sum(one.numel() * one.element_size() for one in batch.values() if isinstance(one, torch.Tensor)))
        Path("/proc/self/clear_refs").write_text("5")  # the largest resident size is counted from here on
        before = _resident("VmRSS")
        profile.start()
        return model.loss(batch)

    batches: list[int] = []
    model.loss = first  # type: ignore[method-assign]
    model.tune(data, steps=STEPS.get(name, 3), batch_size=chosen["batch_size"], quiet=True)
    profile.stop()
    found["resident"] = weights + _resident("VmHWM") - before
    found["gradients"] = max(gradients)
    moments = [one for own in states[-1].state.values() for one in own.values() if isinstance(one, torch.Tensor)]
    found["optimizer"] = sum(one.numel() * one.element_size() for one in moments)
    now = most = 0
    events = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    for event in sorted((one for one in events if one.name() == "[memory]"), key=lambda one: one.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    found["peak"] = weights + batches[0] + most
    return found


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{key}:"))


def main() -> None:
    """Print a table: for each run what was predicted, and measured relative to it."""
    words = sys.argv[1:]
    if words[:1] in (["--predict"], ["--measure"]):
        print(json.dumps({"--predict": predict, "--measure": measure}[words[0]](words[1], words[2] == "full")))
        return
    print(f"{'run':20}{'':12}{'weights':>12}{'gradients':>12}{'optimizer':>12}{'peak':>14}{'resident':>14}")
    for name in words or (*EMBEDDED, *RANDOM):
        for way in ("4 bit", "full"):
            both = []
            for mode in ("--predict", "--measure"):
                done = subprocess.run(
                    [sys.executable, __file__, mode, name, way], capture_output=True, text=True, check=True
                )
                both.append(json.loads(done.stdout.splitlines()[-1]))
            predicted, measured = both
            for label, row in (("predicted", predicted), ("measured", measured)):
                sizes = "".join(f"{row.get(key, 0) / 1e6:{width}.2f}" for key, width in _COLUMNS)
                print(f"{f'{name}, {way}':20}{label:12}{sizes}")
            off = "".join(
                f"{predicted.get(key, predicted['peak']) / measured[key] - 1:{width}.1%}" for key, width in _COLUMNS
            )
            print(f"{'':20}{'off by':12}{off}", flush=True)


_COLUMNS = (("weights", 12), ("gradients", 12), ("optimizer", 12), ("peak", 14), ("resident", 14))

if __name__ == "__main__":
    main()
