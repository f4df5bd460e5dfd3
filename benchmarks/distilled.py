"""A model of half the size, trained from random weights with and without its teacher; over several seeds.

    python benchmarks/distilled.py ddpm gpt --seeds 3 --steps 300

Both learn from the same batches of the model's own data for as many steps, with the settings that its registry entry
trains it with. The figure is the first of `evaluate`, on held-out data.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from smaller import interval

import zoo
from zoo.loading.resolve import resolve


def halved(name: str, folder: Path) -> Path:
    """Write the configuration of half the channels of a carried model into a folder, with its other small files."""
    entry = resolve(name)
    assert entry.folder is not None
    for path in entry.folder.iterdir():
        if path.is_file() and path.suffix != ".safetensors" and path.name != "SHA256SUMS":
            shutil.copy(path, folder)
    config: dict[str, Any] = dict(entry.config)
    for key in ("n_embd", "hidden_size", "n_inner", "intermediate_size"):
        if isinstance(config.get(key), int):
            config[key] //= 2
    for key in ("block_out_channels",):
        if key in config:
            config[key] = [size // 2 for size in config[key]]
    for key in ("norm_num_groups",):
        if key in config:
            config[key] = max(1, config[key] // 2)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def figure(folder: Path, name: str, seed: int, steps: int, share: float | None) -> float:
    """Return the figure of one student; without a share it has no teacher."""
    student = zoo.load(str(folder), weights="random", seed=seed, device="cpu")
    settings = {key: value for key, value in resolve(name).pretrain.items() if key not in ("minutes", "data")}
    if share is not None:
        settings |= {"teacher": zoo.load(name, device="cpu"), "teacher_share": share}
    student.tune(resolve(name).pretrain.get("data"), steps=steps, seed=seed, quiet=True, **settings)
    return next(iter(student.evaluate().values()))


def main() -> None:
    """Print each model's figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--share", type=float, default=0.5)
    chosen = parser.parse_args()
    for name in chosen.names:
        with tempfile.TemporaryDirectory() as made:
            folder = halved(name, Path(made))
            whole = zoo.load(name, device="cpu")
            size = zoo.load(str(folder), weights="random", seed=0, device="cpu").footprint().parameters
            best = next(iter(whole.evaluate().values()))
            print(f"{name}: teacher {best:.5g}, {whole.footprint().parameters:,} parameters → {size:,}", flush=True)
            rows: dict[str, list[float]] = {"alone": [], "with its teacher": []}
            for seed in range(chosen.seeds):
                for label, share in (("alone", None), ("with its teacher", chosen.share)):
                    rows[label].append(figure(folder, name, seed, chosen.steps, share))
                    print(f"{name} seed {seed} {label}: {rows[label][-1]:.5g}", flush=True)
            for label, values in rows.items():
                print(f"{name:10}{label:20}{interval(values)}", flush=True)
            print(
                f"{name:10}{'gain, paired':20}{interval([a - b for a, b in zip(*rows.values(), strict=True)])}",
                flush=True,
            )


if __name__ == "__main__":
    main()
