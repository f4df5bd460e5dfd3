"""Many clients of one served model, each request under its own adapter, against one request at a time.

    python benchmarks/serving.py [--clients 64] [--requests 200] [--adapters 8] [--tokens 24]
        [--rounds 8] [--many 1000] [--json] [--quick]

The catalogue's gpt in 4 bit, with LoRA adapters of rank 8 that are random and not zero, so that answers differ. As many
threads as there are clients send greedy requests with prompts of 1 to 20 words and wait for each answer. Every answer
is compared with the one that the model gives alone with the adapter. "zoo, one at a time": `model.sample` under the
adapter of each request, in order. "PEFT": the same requests in order by transformers' generate, the same adapters in a
PeftModel that switches between them, the base in float32 (for which it needs less time on a CPU than in 4 bit).
Latency: from sending to the whole answer; one at a time, all requests are there at first. torch on one thread.

Memory: resident MiB of the process after each of `--rounds` times the same requests to one runtime; and while `--many`
names of adapters are asked for one after the other, a new one each time, of which four are held.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

import zoo
from zoo.serving.runtime import Runtime
from zoo.serving.work import Limits, Work

TEXT = "the list of a long river that was born in city which had been 1912 after war and his first king to north"


def requests(count: int, adapters: list[str], tokens: int) -> list[Work]:
    """Return greedy requests of different lengths, their adapters in random order."""
    draw = random.Random(0)
    return [
        Work(
            {
                "prompt": " ".join(draw.choices(TEXT.split(), k=draw.randint(1, 20))),
                "max_new_tokens": draw.randint(tokens // 2, tokens * 3 // 2),
                "do_sample": False,
            },
            seed=number,
            adapter=draw.choice(adapters),
        )
        for number in range(count)
    ]


def save_adapters(folder: Path, count: int) -> dict[str, str]:
    """Write adapters of rank 8 that change answers; returns their folders by name."""
    model = zoo.load("gpt")
    places = {}
    for number in range(count):
        name = f"adapter{number}"
        model.add_adapter(name, 8, seed=number)
        draw = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for _, parameter in model.trainable_parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.06)
        model.save_adapter(folder / name)
        places[name] = str(folder / name)
        model.remove_adapter(name)
    return places


def together(model: zoo.Model, places: dict[str, str], works: list[Work], clients: int) -> dict[str, Any]:
    """Return the answers of a runtime to clients that each send a request when their last one is answered."""
    answers: list[Any] = [None] * len(works)
    latencies = [0.0] * len(works)
    left = iter(range(len(works)))
    lock = threading.Lock()

    def client() -> None:
        while True:
            with lock:
                number = next(left, None)
            if number is None:
                return
            begun = time.perf_counter()
            done = runtime.submit(works[number]).result(600)
            latencies[number] = time.perf_counter() - begun
            answers[number] = done.samples.data[0]

    with Runtime(model, places, Limits(batch=clients, adapters=len(places))) as runtime:
        for name in places:  # loading is not what is measured
            runtime.submit(Work({"prompt": "the", "max_new_tokens": 1}, adapter=name)).result(600)
        before = resident()
        threads = [threading.Thread(target=client) for _ in range(clients)]
        begun, cpu = time.perf_counter(), time.process_time()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
        facts = runtime.facts()
    return {
        **measured(answers, latencies, seconds, cpu, before),
        "batch": facts["batch"],
        "new tokens": facts["tokens"],
    }


def kept(model: zoo.Model, places: dict[str, str], works: list[Work], clients: int, rounds: int) -> list[float]:
    """Return the resident MiB after each round of the same requests to one runtime."""
    sizes = []
    with (
        Runtime(model, places, Limits(batch=clients, adapters=len(places))) as runtime,
        ThreadPoolExecutor(clients) as pool,
    ):
        for _ in range(rounds):
            list(pool.map(lambda work: runtime.submit(work).result(600), works))
            sizes.append(resident())
    return sizes


def one_after_the_other(model: zoo.Model, place: str, count: int) -> dict[str, Any]:
    """Return time and memory while `count` names of adapters are asked for, each once."""
    names = {f"n{number}": place for number in range(count)}
    times, sizes = [], []
    with Runtime(model, names, Limits(adapters=4)) as runtime:
        for name in names:
            begun = time.perf_counter()
            runtime.submit(Work({"prompt": "the", "max_new_tokens": 1}, adapter=name)).result(600)
            times.append(time.perf_counter() - begun)
            sizes.append(resident())
        evictions = runtime.facts()["evictions"]
    marks = sorted({min(count, mark) for mark in (20, 100, 250, 500, count)})
    return {
        "adapters": count,
        "evictions": evictions,
        "median": statistics.median(times),
        "p99": sorted(times)[min(count - 1, int(0.99 * count))],
        "rss": {str(mark): sizes[mark - 1] for mark in marks},
    }


def in_turn(works: list[Work], answer: Callable[[Work], str]) -> dict[str, Any]:
    """Return the answers to requests that are all there at once and answered one after the other."""
    answer(works[0])
    before, begun, cpu = resident(), time.perf_counter(), time.process_time()
    answers, latencies = [], []
    for work in works:
        answers.append(answer(work))
        latencies.append(time.perf_counter() - begun)
    return measured(answers, latencies, time.perf_counter() - begun, time.process_time() - cpu, before)


def measured(answers: list[Any], latencies: list[float], seconds: float, cpu: float, before: float) -> dict[str, Any]:
    """Return answers with the figures about them."""
    ordered = sorted(latencies)
    return {
        "answers": answers,
        "seconds": seconds,
        "CPU seconds": cpu,
        "requests/s": len(answers) / seconds,
        "median": statistics.median(ordered),
        "p99": ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
        "rss before": before,
        "rss after": resident(),
    }


def alone(model: zoo.Model) -> Callable[[Work], str]:
    """Return what answers a request by `model.sample` under its adapter."""

    def answer(work: Work) -> str:
        model.activate(str(work.adapter))
        return str(model.sample(1, seed=work.seed, **work.options).data[0])

    return answer


def with_peft(places: dict[str, str]) -> Callable[[Work], str]:
    """Return what answers a request by transformers' generate, after PEFT has switched to its adapter."""
    from peft import PeftModel

    base = zoo.load("gpt", device="cpu")
    tokenizer = zoo_tokenizer(base)
    model: Any = None
    for name, place in places.items():
        if model is None:
            model = PeftModel.from_pretrained(base.module, place, adapter_name=name)
        else:
            model.load_adapter(place, adapter_name=name)
    model.eval()

    @torch.no_grad()
    def answer(work: Work) -> str:
        model.set_adapter(work.adapter)
        inputs = tokenizer(work.options["prompt"], return_tensors="pt")
        limit = work.options["max_new_tokens"]
        output = model.generate(**inputs, max_new_tokens=limit, do_sample=False, pad_token_id=tokenizer.eos_token_id)
        return str(tokenizer.decode(output[0], skip_special_tokens=True))

    return answer


def zoo_tokenizer(model: zoo.Model) -> Any:
    """Return the model's tokenizer."""
    from zoo.integrations.transformers import tokenizer_of

    return tokenizer_of(model.entry)


def resident() -> float:
    """Return the process's resident memory in MiB."""
    import psutil

    return float(psutil.Process().memory_info().rss / 2**20)


def run(clients: int, count: int, adapters: int, tokens: int, rounds: int, many: int) -> dict[str, Any]:
    """Return the figures of the three ways, without the answers, how many answers are equal, and memory in use."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        places = save_adapters(Path(folder), adapters)
        works = requests(count, list(places), tokens)
        model = zoo.load("gpt", bits=4)
        found = {"zoo, together": together(model, places, works, clients)}
        sizes = kept(model, places, works, clients, rounds)
        loaded = one_after_the_other(model, next(iter(places.values())), many)
        for name, place in places.items():
            model.add_adapter(name, place, active=False)
        found["zoo, one at a time"] = in_turn(works, alone(model))
        del model
        found["PEFT, one at a time"] = in_turn(works, with_peft(places))
    answers = {name: one.pop("answers") for name, one in found.items()}
    first, second = answers["zoo, together"], answers["zoo, one at a time"]
    return {
        "clients": clients,
        "requests": count,
        "adapters": adapters,
        "equal": sum(one == other for one, other in zip(first, second, strict=True)),
        "lost": sum(one is None for one in first),
        "different answers": len(set(second)),
        "ways": found,
        "rss after each round": sizes,
        "one adapter after the other": loaded,
    }


def main() -> None:
    """Print a table, or JSON."""
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
        given.clients, given.requests, given.adapters, given.tokens, given.rounds, given.many = 4, 6, 2, 4, 2, 6
    found = run(given.clients, given.requests, given.adapters, given.tokens, given.rounds, given.many)
    if given.json:
        print(json.dumps(found, indent=2))
        return
    print(
        f"{found['clients']} clients, {found['requests']} requests, {found['adapters']} adapters: {found['equal']} "
        f"answers equal to those alone, {found['lost']} lost, {found['different answers']} different ones"
    )
    columns = ("seconds", "CPU seconds", "requests/s", "median", "p99", "rss before", "rss after")
    print("| | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 1) + "|")
    for name, one in found["ways"].items():
        print(f"| {name} | " + " | ".join(f"{one[column]:.2f}" for column in columns) + " |")
    print("resident MiB after each round: " + ", ".join(f"{size:.0f}" for size in found["rss after each round"]))
    loaded = found["one adapter after the other"]
    print(
        f"{loaded['adapters']} adapters one after the other: median {loaded['median'] * 1000:.1f} ms, "
        f"p99 {loaded['p99'] * 1000:.1f} ms, {loaded['evictions']} evicted; resident MiB "
        + ", ".join(f"{size:.0f} after {mark}" for mark, size in loaded["rss"].items())
    )


if __name__ == "__main__":
    main()
