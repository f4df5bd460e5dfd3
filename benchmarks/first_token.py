"""How long prompts and other texts wait for each other in a runtime.

    python benchmarks/first_token.py [--prompt 3000] [--running 8] [--samples 8] [--width 512] [--json] [--quick]

A Llama with random weights, 6 layers, in 4 bit, torch on one thread. While `--running` texts are continued, a prompt of
`--prompt` tokens arrives: the longest time between two tokens of a running text, with the prompt read in pieces beside
them (as many tokens at once as the engine says) and as a whole, both in the same process; and the time until the
prompt's own first token. Then `--samples` samples of one prompt as one request, as many requests with that prompt, and
as many with different ones of its length: the time until all have a token.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import zoo
from zoo.plugin import hooks
from zoo.plugin.engines import Engine, Said
from zoo.plugin.requests import SampleRequest
from zoo_gpt import continuing

WHOLE = 10**9
ROUNDS = 3


def llama(folder: Path, width: int, context: int) -> zoo.Model:
    """Return a model with random weights, of which no text ends early, and the catalogue's tokenizer."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    from zoo.integrations.transformers import tokenizer_of

    tokenizer = tokenizer_of(zoo.load("gpt", device="cpu").entry)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=6,
        num_attention_heads=8,
        max_position_embeddings=context,
        eos_token_id=None,
        bos_token_id=None,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return zoo.load(str(folder), bits=4, device="cpu")


def admit(model: zoo.Model, engine: Engine, key: str, prompt: str, tokens: int, n: int = 1) -> None:
    """Give a request to the engine."""
    options = {"prompt": prompt, "max_new_tokens": tokens, "do_sample": False}
    prepared = engine.prepare(hooks.declared(model, SampleRequest(n, 0, options)))
    assert prepared is not None
    engine.admit(key, prepared, None)


def words(count: int, first: str = "") -> str:
    """Return a prompt of about so many tokens."""
    return first + " the" * count


def beside(model: zoo.Model, prompt: str, running: int, at_once: int) -> dict[str, float]:
    """Return the longest time between two tokens of running texts, and that until the prompt's first one."""
    continuing.READ_BESIDE = at_once
    engine = hooks.engine(model, running + 1)
    assert engine is not None
    with torch.no_grad(), model.caching():
        for number in range(running):
            admit(model, engine, f"running {number}", words(8, str(number)), 400)
        for _ in range(8):
            list(engine.step())
        admit(model, engine, "prompt", prompt, 2)
        begun, longest, usual = time.perf_counter(), 0.0, []
        while True:
            at = time.perf_counter()
            events = list(engine.step())
            longest = max(longest, time.perf_counter() - at)
            if any(isinstance(one, Said) and one.key == "prompt" for one in events):
                break
        first = time.perf_counter() - begun
        for _ in range(8):
            at = time.perf_counter()
            list(engine.step())
            usual.append(time.perf_counter() - at)
    return {"longest gap": longest, "first token": first, "usual gap": statistics.median(usual)}


def all_begun(model: zoo.Model, prompts: list[str], n: int) -> float:
    """Return the time until each text of these requests has a token."""
    engine = hooks.engine(model, len(prompts) * n)
    assert engine is not None
    with torch.no_grad(), model.caching():
        for number, prompt in enumerate(prompts):
            admit(model, engine, str(number), prompt, 8, n)
        begun, said = time.perf_counter(), set()
        while len(said) < len(prompts) * n:
            said |= {(one.key, one.index) for one in engine.step() if isinstance(one, Said)}
        return time.perf_counter() - begun


def run(length: int, running: int, samples: int, width: int) -> dict[str, Any]:
    """Return the figures: the median of some rounds."""
    torch.set_num_threads(1)
    pieces = continuing.READ_BESIDE
    ways = {f"{size} at once": size for size in (pieces // 2, pieces, 2 * pieces, 4 * pieces)} | {"as a whole": WHOLE}
    with tempfile.TemporaryDirectory() as folder:
        model = llama(Path(folder), width, length + 1024)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
        begun: dict[str, list[float]] = {"one request": [], "equal requests": [], "different requests": []}
        short = length // 8
        for number in range(ROUNDS):
            for name in list(ways)[:: 1 if number % 2 else -1]:
                found[name].append(beside(model, words(length), running, ways[name]))
            begun["one request"].append(all_begun(model, [words(short)], samples))
            begun["equal requests"].append(all_begun(model, [words(short)] * samples, 1))
            different = [words(short, str(other)) for other in range(samples)]
            begun["different requests"].append(all_begun(model, different, 1))
    return {
        "prompt": length,
        "running": running,
        "samples": samples,
        "of tokens": short,
        "beside": {
            name: {what: statistics.median(one[what] for one in rounds) for what in rounds[0]}
            for name, rounds in found.items()
        },
        "all begun": {name: statistics.median(rounds) for name, rounds in begun.items()},
    }


def main() -> None:
    """Print tables, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", type=int, default=3000)
    parser.add_argument("--running", type=int, default=8)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    if given.quick:
        given.prompt, given.running, given.samples, given.width = 600, 2, 2, 64
    found = run(given.prompt, given.running, given.samples, given.width)
    if given.json:
        print(json.dumps(found, indent=2))
        return
    print(f"a prompt of {found['prompt']} tokens beside {found['running']} texts\n")
    print("| read | longest gap | usual gap | the prompt's first token |\n|---|---|---|---|")
    for name, one in found["beside"].items():
        print(f"| {name} | {one['longest gap']:.3f} s | {one['usual gap']:.3f} s | {one['first token']:.2f} s |")
    print(f"\n{found['samples']} texts of prompts of {found['of tokens']} tokens, until all have a token")
    for name, seconds in found["all begun"].items():
        print(f"{name}: {seconds:.2f} s")


if __name__ == "__main__":
    main()
