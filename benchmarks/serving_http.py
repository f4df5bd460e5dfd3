"""Many clients of `zoo serve` on loopback, by HTTP: every answer against the model alone, throughput and memory.

    python benchmarks/serving_http.py [--clients 64] [--requests 200] [--adapters 8] [--tokens 24]
        [--rounds 8] [--many 1000] [--json] [--quick]

The requests are those of serving.py, sent by OpenAI's client from as many threads as there are clients, `--rounds`
times. The server is a process of its own, and what is told of memory and CPU time is that process's. "One at a time":
`model.sample` in this process under the adapter of each request. Then `--many` names of adapters are asked for one
after the other, each once, of which as many are held as before.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from openai import OpenAI
from serving import alone, in_turn, requests, save_adapters

import zoo
from zoo.serving.work import Work


@contextmanager
def served(places: dict[str, str], held: int, batch: int) -> Iterator[tuple[str, psutil.Process]]:
    """Start `zoo serve gpt --bits 4`; yields its address and its process."""
    command = [sys.executable, "-m", "zoo", "serve", "gpt", "--bits", "4", "--port", "0", "--json"]
    command += ["--adapters", ",".join(f"{name}={place}" for name, place in places.items())]
    command += ["--max-adapters", str(held), "--batch", str(batch)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["address"], psutil.Process(process.pid)
        finally:
            process.terminate()


def answer(client: OpenAI, work: Work) -> str:
    """Return the whole text that the server gives to a request."""
    prompt = work.options["prompt"]
    found = client.completions.create(
        model=str(work.adapter), prompt=prompt, max_tokens=work.options["max_new_tokens"], temperature=0, echo=True
    )
    return found.choices[0].text


def round_of(client: OpenAI, works: list[Work], clients: int) -> dict[str, Any]:
    """Send all requests, each thread one after the other; returns the answers and their times."""
    answers: list[str | None] = [None] * len(works)
    latencies = [0.0] * len(works)
    left, lock = iter(range(len(works))), threading.Lock()

    def ask() -> None:
        while True:
            with lock:
                number = next(left, None)
            if number is None:
                return
            begun = time.perf_counter()
            answers[number] = answer(client, works[number])
            latencies[number] = time.perf_counter() - begun

    begun = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit(ask) for _ in range(clients)]:
            done.result()
    seconds = time.perf_counter() - begun
    ordered = sorted(latencies)
    return {
        "answers": answers,
        "requests/s": len(works) / seconds,
        "median": statistics.median(ordered),
        "p99": ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
    }


def resident(process: psutil.Process) -> float:
    """Return the process's resident memory in MiB."""
    return float(process.memory_info().rss / 2**20)


def run(clients: int, count: int, adapters: int, tokens: int, rounds: int, many: int) -> dict[str, Any]:
    """Return the figures of the server and of the model alone."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        places = save_adapters(Path(folder), adapters)
        works = requests(count, list(places), tokens)
        model = zoo.load("gpt", bits=4)
        for name, place in places.items():
            model.add_adapter(name, place, active=False)
        single = in_turn(works, alone(model))
        names = {f"n{number}": next(iter(places.values())) for number in range(many)}
        with served(places | names, adapters, clients) as (address, process):
            client = OpenAI(base_url=f"{address}/v1", api_key="none", timeout=600, max_retries=0)
            for name in places:
                client.completions.create(model=name, prompt="the", max_tokens=1)
            before, found, sizes = resident(process), [], []
            for _ in range(rounds):
                found.append(round_of(client, works, clients))
                sizes.append(resident(process))
            times, loaded = [], []
            for name in names:
                begun = time.perf_counter()
                client.completions.create(model=name, prompt="the", max_tokens=1)
                times.append(time.perf_counter() - begun)
                loaded.append(resident(process))
    expected = single.pop("answers")
    answers = [one.pop("answers") for one in found]
    marks = sorted({min(many, mark) for mark in (20, 100, 250, 500, many)})
    return {
        "clients": clients,
        "requests": count,
        "adapters": adapters,
        "equal": [sum(one == other for one, other in zip(given, expected, strict=True)) for given in answers],
        "lost": sum(one is None for given in answers for one in given),
        "rounds": found,
        "one at a time": single,
        "rss before": before,
        "rss after each round": sizes,
        "one adapter after the other": {
            "adapters": many,
            "median": statistics.median(times),
            "p99": sorted(times)[min(many - 1, int(0.99 * many))],
            "rss": {str(mark): loaded[mark - 1] for mark in marks},
        },
    }


def main() -> None:
    """Print lines of text, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--many", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    if given.quick:
        given.clients, given.requests, given.adapters, given.tokens, given.rounds, given.many = 4, 6, 2, 4, 2, 4
    found = run(given.clients, given.requests, given.adapters, given.tokens, given.rounds, given.many)
    if given.json:
        print(json.dumps(found, indent=2))
        return
    print(
        f"{found['clients']} clients, {found['requests']} requests, {found['adapters']} adapters: equal in each round "
        f"{found['equal']}, {found['lost']} lost; one at a time {found['one at a time']['requests/s']:.1f} requests/s"
    )
    print("| round | requests/s | median | p99 | resident MiB |\n|---|---|---|---|---|")
    for number, (one, size) in enumerate(zip(found["rounds"], found["rss after each round"], strict=True), start=1):
        print(f"| {number} | {one['requests/s']:.1f} | {one['median']:.2f} | {one['p99']:.2f} | {size:.0f} |")
    loaded = found["one adapter after the other"]
    print(
        f"{loaded['adapters']} adapters one after the other: median {loaded['median'] * 1000:.1f} ms, "
        f"p99 {loaded['p99'] * 1000:.1f} ms; resident MiB {found['rss before']:.0f} before all, "
        + ", ".join(f"{size:.0f} after {mark}" for mark, size in loaded["rss"].items())
    )


if __name__ == "__main__":
    main()
