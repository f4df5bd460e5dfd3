"""Run the benchmarks within a time, keep what each gives as JSON, and write docs/benchmarks.md from all that is kept.

    python benchmarks/bench.py [--budget 20] [--only step small_layers …] [--quick] [--results FOLDER] [--page FILE]

`make bench` runs it, `make bench BUDGET=60` for an hour. A piece is one script, of `step.py` one model in one dtype.
What has no result yet runs first, then what is oldest; each result is written when its piece ends, so that an
interrupted run keeps what it has and the next goes on there. A piece that does not end in time keeps its earlier one.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
LIBRARIES = ("torch", "transformers", "diffusers", "timm", "torch-geometric", "peft", "bitsandbytes", "lycoris-lora")
MODELS = ("bert", "gpt", "vit", "unet", "vae", "stylegan", "gat")
CARRIED = tuple(f"carried-{name}" for name in ("bert", "gpt", "vit", "ddpm", "vae", "stylegan", "gat"))
LAYERS = ("conv-64", "conv-128", "rows-1", "rows-16", "rows-2048")


class Piece(NamedTuple):
    """A run of one script.

    Attributes:
        name: What its result is kept under.
        script: In this folder.
        arguments: Of the script.
        title: Over its table on the page.
        peer: A library that it can only compare with where it is installed, by the name of its import.
    """

    name: str
    script: str
    arguments: tuple[str, ...] = ()
    title: str = ""
    peer: str = ""


# A script that is not there, or has been added since, is no error: the list names all.
PIECES = (
    *(
        Piece(f"step-{model}-{dtype}", "step.py", ("--models", model, "--dtypes", dtype), peer="lycoris")
        for models in (LAYERS, MODELS, CARRIED)
        for dtype in ("bfloat16", "float32")
        for model in models
    ),
    Piece("decoding", "decoding.py", title="Decoding a token at a time", peer="bitsandbytes"),
    Piece("small-layers", "small_layers.py", title="Many small layers", peer="peft"),
    Piece("experts", "experts.py", title="Fused experts"),
    Piece("adapters", "adapters.py", title="Handling of adapters", peer="peft"),
    Piece("load", "load.py", title="Loading", peer="transformers"),
    Piece("gpu", "gpu.py", title="On a GPU", peer="peft"),
)


def machine() -> dict[str, str]:
    """Return what the figures were measured on."""
    import torch

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        model = f"{names[0]}, {len(names)} cores" if names else model
    level = torch.backends.cpu.get_cpu_capability()
    return {"cpu": f"{model}, {level}", "system": platform.system(), "python": platform.python_version()}


def versions() -> dict[str, str]:
    """Return the installed versions of the libraries that are compared; those that are missing are named so."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def due(pieces: list[Piece], results: Path) -> list[Piece]:
    """Return the pieces in the order in which they should run: without a result first, then the oldest."""
    return sorted(pieces, key=lambda piece: (read(results, piece) or {"date": ""})["date"])


def read(results: Path, piece: Piece) -> dict[str, Any] | None:
    """Return the kept result of a piece, or None."""
    path = results / f"{piece.name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def run(piece: Piece, results: Path, seconds: float, quick: bool) -> str:
    """Run a piece and keep its result; return a word on how it went."""
    structured = piece.script == "step.py"
    command = [sys.executable, str(FOLDER / piece.script), *piece.arguments]
    command += ["--json"] * structured + ["--quick"] * quick
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
    except subprocess.TimeoutExpired:
        return "not done in the time that was left"
    if done.returncode:
        return f"failed: {(done.stderr.strip().splitlines() or ['no message'])[-1][:200]}"
    result = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
        "command": " ".join([piece.script, *piece.arguments]),
        "quick": quick,
        "machine": machine(),
        "versions": versions(),
        "result": json.loads(done.stdout) if structured else done.stdout,
    }
    path = results / f"{piece.name}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(path)
    return "done"


def main() -> None:
    """Run what there is time for, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, default=20.0, help="minutes")
    parser.add_argument("--only", nargs="+", default=[], help="beginnings of pieces' names")
    parser.add_argument("--results", type=Path, default=FOLDER / "results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: checks the scripts, measures nothing")
    options = parser.parse_args()
    from bench_page import page

    options.results.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * options.budget
    chosen = [piece for piece in PIECES if not options.only or piece.name.startswith(tuple(options.only))]
    for piece in due(chosen, options.results):
        left = end - time.monotonic()
        if not (FOLDER / piece.script).exists():
            outcome = "there is no such script"
        elif left <= 0:
            outcome = "no time left"
        else:
            outcome = run(piece, options.results, left, options.quick)
        missing = piece.peer and importlib.util.find_spec(piece.peer) is None
        print(f"{piece.name}: {outcome}" + (f" (without {piece.peer})" if missing else ""), flush=True)
        options.page.write_text(page([(one, read(options.results, one)) for one in PIECES]))


if __name__ == "__main__":
    main()
