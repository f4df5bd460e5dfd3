"""What a run keeps: every row as soon as it is there, in a JSON file, and on the screen."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import time
import traceback
from datetime import date
from pathlib import Path
from typing import Any

from on_gpu.parts import Part, Row, Setup

LIBRARIES = ("torch", "triton", "bitsandbytes", "peft", "transformers", "diffusers", "timm", "torch_geometric")


class Record:
    """The record of one run. `parts` has, by name: title, note, rows, seconds, and how it ended."""

    def __init__(self, device: str, quick: bool, budget: float, path: Path | None) -> None:
        self.setup, self.path = Setup(device, quick), path
        self.begun, self.budget = time.monotonic(), budget
        self.found: dict[str, Any] = {"about": about(device) | {"quick": quick, "budget_s": budget}, "parts": {}}
        print(*(f"{key}: {value}" for key, value in self.found["about"].items()), sep="\n", flush=True)

    def run(self, name: str, part: Part, share: float) -> None:
        """Run a part in its share of the time that is left."""
        begun = time.monotonic()
        left = self.budget - (begun - self.begun)
        entry: dict[str, Any] = {"title": part.title, "note": part.note, "rows": [], "ended": "did not end"}
        self.found["parts"][name] = entry
        print(f"\n{part.title} ({max(left * share, 0):.0f} s)", flush=True)
        if left <= 0:
            entry["ended"] = "no time was left for it"
            return self._write()
        try:
            entry["ended"] = "done"
            for row in part.rows(self.setup):
                entry["rows"].append(dict(row))
                print("  " + "  ".join(f"{key} {shown(value)}" for key, value in row.items()), flush=True)
                self._write()
                if time.monotonic() - begun > left * share:
                    entry["ended"] = "its time ended"
                    break
        except Exception as error:  # a part must not take the others with it
            traceback.print_exc()
            entry["ended"] = f"failed: {type(error).__name__}: {str(error)[:500]}"
        entry["seconds"] = round(time.monotonic() - begun, 1)
        print(f"  {entry['ended']} after {entry['seconds']} s", flush=True)
        return self._write()

    def failures(self) -> int:
        """Return 1 if a part failed, or a row of one; else 0."""
        ends = [entry["ended"].startswith("failed") for entry in self.found["parts"].values()]
        rows = ["failed" in row for entry in self.found["parts"].values() for row in entry["rows"]]
        return int(any(ends + rows))

    def _write(self) -> None:
        if self.path is None:
            return
        whole = self.path.with_name(self.path.name + ".part")
        whole.write_text(json.dumps(self.found, indent=1), encoding="utf-8")
        whole.replace(self.path)


def shown(value: object) -> str:
    """Return a value as tables show it: floats with three digits."""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def failed(row: Row, error: Exception) -> Row:
    """Return the row of something that could not be measured."""
    text = str(error).splitlines()[0] if str(error) else ""
    return {**row, "failed": f"{type(error).__name__}: {text[:200]}"}


def about(device: str) -> dict[str, Any]:
    """Return what a figure depends on: card, driver's CUDA, versions, date, which kernels are in force."""
    import torch

    import zoo

    facts: dict[str, Any] = {"date": date.today().isoformat(), "python": platform.python_version()}
    if device.startswith("cuda"):
        card = torch.cuda.get_device_properties(device)
        facts |= {"card": card.name, "memory_gib": round(card.total_memory / 2**30, 1), "cuda": torch.version.cuda}
    for name in LIBRARIES:
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            facts[name] = "not installed"
    return facts | {"kernels": str(zoo.kernel_path(device))}
