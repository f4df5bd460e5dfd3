"""Memory and time of loading a checkpoint in 4 bit: a synthetic, sharded Llama of over 1 GB in float32.

    python benchmarks/load.py [--bits 4 8 packed none] [--json] [--quick]

`packed` loads what `model.save(folder, packed=True)` wrote of the model in 4 bit; its ratio is to reading that folder.

Each load runs in a fresh process. Memory is the peak of anonymous memory (RssAnon, sampled every 2 ms; the mapped
file's own pages are the kernel's to drop) over the process's value after imports. Time is a ratio to reading the same
files once, in the same process, from the page cache; the stages are in CPU time of the one thread that loads, which
other processes on the machine disturb less.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZES = {
    "full": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 5, "vocab_size": 8000},
    "quick": {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 2, "vocab_size": 512},
}
SHARD_BYTES = {"full": 250 << 20, "quick": 1 << 20}
STAGES = ("construct", "open and map", "quantize (and page in)", "place", "rest")


def make_checkpoint(folder: Path, size: str) -> int:
    """Write a Llama with random weights as shards of at most SHARD_BYTES; return the bytes of all weights.

    Args:
        folder: where to.
        size: a key of `SIZES`.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        **SIZES[size], num_attention_heads=8, num_key_value_heads=8, architectures=["LlamaForCausalLM"]
    )
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in AutoModelForCausalLM.from_config(config).state_dict().items()}
    config.save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    shards: list[list[str]] = [[]]
    filled = 0
    for name, shape in shapes.items():
        if filled and filled + shape.numel() * 4 > SHARD_BYTES[size]:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += shape.numel() * 4
    weight_map = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {name: torch.randn(shapes[name], generator=generator).mul_(0.02) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    total = sum(shape.numel() * 4 for shape in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def status(field: str) -> int:
    """Return a field of /proc/self/status in bytes."""
    with Path("/proc/self/status").open() as file:
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    raise KeyError(field)


class Peak:
    """The highest RssAnon while it runs, sampled by a thread every 2 ms."""

    def __enter__(self) -> Peak:
        self.start = self.highest = status("RssAnon")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._stop.wait(0.002):
            self.highest = max(self.highest, status("RssAnon"))

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.highest = max(self.highest, status("RssAnon"))


def read_once(folder: Path) -> tuple[float, float]:
    """Return seconds and CPU seconds to read all shards once into one buffer."""
    buffer = bytearray(1 << 22)
    start, cpu = time.perf_counter(), time.thread_time()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - start, time.thread_time() - cpu


class Clock:
    """CPU seconds of this thread spent in wrapped functions, by stage."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)

    def function(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that calls `call` and adds its time to the stage's."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.thread_time()
            try:
                return call(*args, **kwargs)
            finally:
                self.seconds[stage] += time.thread_time() - start

        return timed

    def iterator(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that iterates as `call` and adds the time of each step to the stage's."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            items = iter(call(*args, **kwargs))
            following = self.function(stage, lambda: next(items, None))
            while (item := following()) is not None:
                yield item

        return timed


def load_once(folder: Path, bits: int | None) -> dict[str, Any]:
    """Load the model in this process and return its measurements; all imports precede the memory's baseline."""
    import torch

    torch.set_num_threads(1)
    import accelerate  # noqa: F401
    import bitsandbytes  # noqa: F401
    import safetensors.torch  # noqa: F401
    from transformers import AutoModelForCausalLM, LlamaForCausalLM  # noqa: F401

    import zoo
    from zoo.loading import stream
    from zoo.plugin import hooks
    from zoo.weights.codecs import pack
    from zoo.weights.scheme import Quantization

    pack(torch.randn(64, 64), Quantization(4))  # loads the kernels' library and tables
    clock = Clock()
    stream.pack_weight = clock.function("quantize (and page in)", stream.pack_weight)
    stream.replace_parameter = clock.function("place", stream.replace_parameter)
    stream.set_parameter = clock.function("place", stream.set_parameter)
    hooks.construct = clock.function("construct", hooks.construct)
    hooks.checkpoint = clock.iterator("open and map", hooks.checkpoint)
    read_once(folder)
    reads, read_cpus = zip(*(read_once(folder) for _ in range(5)), strict=True)
    read, read_cpu = statistics.median(reads), statistics.median(read_cpus)
    with Peak() as peak:
        start, cpu = time.perf_counter(), time.thread_time()
        model = zoo.load(str(folder), bits=bits, device="cpu")
        seconds, cpu = time.perf_counter() - start, time.thread_time() - cpu
    kept = status("RssAnon") - peak.start
    clock.seconds["rest"] = cpu - sum(clock.seconds.values())
    return {
        "bits": bits,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "read_seconds": read,
        "read_cpu_seconds": read_cpu,
        "ratio": seconds / read,
        "cpu_ratio": cpu / read_cpu,
        "stages": clock.seconds,
        "peak_bytes": peak.highest - peak.start,
        "kept_bytes": kept,
        "model_bytes": model.footprint().bytes,
        "high_water_bytes": status("VmHWM"),
        "baseline_bytes": peak.start,
    }


def save_packed(folder: Path, target: Path) -> None:
    """Load the model in 4 bit and save it as it is in memory."""
    import zoo

    zoo.load(str(folder), bits=4, device="cpu").save(target, packed=True)


def measure(folder: Path, bits: str) -> dict[str, Any]:
    """Return the measurements of `load_once` in a process of its own."""
    if bits == "packed":
        child(folder, "--pack")
        return {**measure(packed_folder(folder), "none"), "bits": "packed"}
    return json.loads(child(folder, "--bits", bits).splitlines()[-1])  # type: ignore[no-any-return]


def child(folder: Path, *options: str) -> str:
    """Run this script in a process of its own, and return what it prints."""
    command = [sys.executable, __file__, "--child", str(folder), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def packed_folder(folder: Path) -> Path:
    """Return where the packed model of a checkpoint goes."""
    return folder / "packed"


def main() -> None:
    """Print a row for each number of bits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--bits", nargs="+", default=["4", "8", "packed", "none"], choices=["4", "8", "16", "32", "packed", "none"]
    )
    parser.add_argument(
        "--quick", action="store_true", help="a checkpoint of 3 MB: checks the script, measures nothing"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--pack", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child and options.pack:
        save_packed(options.child, packed_folder(options.child))
        return
    if options.child:
        print(json.dumps(load_once(options.child, None if options.bits[0] == "none" else int(options.bits[0]))))
        return
    folder = Path(tempfile.mkdtemp(prefix="zoo-load-"))
    try:
        size = "quick" if options.quick else "full"
        total = make_checkpoint(folder, size)
        shards = len(list(folder.glob("*.safetensors")))
        rows = [measure(folder, bits) for bits in options.bits]
    finally:
        shutil.rmtree(folder)
    if options.json:
        print(json.dumps({"checkpoint_bytes": total, "shards": shards, "loads": rows}, indent=1))
        return
    print(f"checkpoint: {total / 2**30:.2f} GiB of float32 in {shards} shards")
    print(f"{'bits':>6} {'peak anon':>10} {'model':>9} {'CPU s':>6} {'/reading':>8} {'wall s':>6}  stages, CPU seconds")
    for row in rows:
        stages = ", ".join(f"{stage} {value:.2f}" for stage, value in row["stages"].items())
        print(
            f"{row['bits'] or 'none':>6} {row['peak_bytes'] / 2**20:>6.0f} MiB {row['model_bytes'] / 2**20:>5.0f} MiB "
            f"{row['cpu_seconds']:>6.2f} {row['cpu_ratio']:>7.1f}x {row['seconds']:>6.2f}  {stages}"
        )


if __name__ == "__main__":
    main()
