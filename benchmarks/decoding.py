"""Decoding one token at a time with a cache of keys and values: zoo in 4 and 8 bit, bitsandbytes' layers, plain models.

    python benchmarks/decoding.py [--models gpt2 llama] [--rounds 9] [--batch 1] [--json] [--quick]

GPT-2 (768 wide, 50,257 tokens, its head tied to its table) and a model like Llama (768 wide, 32,000 tokens), 6 layers
each, random weights, one thread. A call decodes 16 tokens from an empty cache. Rounds interleave all variants, in an
order that rotates and is reversed in every other round. Ratios are to the float32 model in the same round: the median,
and in brackets the smallest and the largest. Every weight is in 4 bit, the head too, except for "layers" variants.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import json
import statistics
from collections.abc import Callable

import torch
from timing import interleaved
from torch import nn

TOKENS = 16


def gpt2(quick: bool) -> nn.Module:
    """Return GPT-2 of 6 layers."""
    from transformers import GPT2Config, GPT2LMHeadModel

    size = {"n_embd": 64, "n_head": 2, "vocab_size": 500} if quick else {}
    return GPT2LMHeadModel(GPT2Config(n_layer=2 if quick else 6, **size))


def llama(quick: bool) -> nn.Module:
    """Return a model like Llama, of 6 layers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    width = 64 if quick else 768
    config = LlamaConfig(
        vocab_size=512 if quick else 32000,
        hidden_size=width,
        intermediate_size=2 * width if quick else 2048,
        num_hidden_layers=2 if quick else 6,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
    )
    return LlamaForCausalLM(config)


CASES = {"gpt2": gpt2, "llama": llama}


def bitsandbytes_layers(plain: nn.Module, head: bool) -> nn.Module:
    """Return a copy whose linear layers are bitsandbytes' own, (in, out) weights of `Conv1D` transposed for them."""
    import bitsandbytes as bnb

    module = copy.deepcopy(plain)
    for name, layer in list(module.named_modules()):
        conv1d = type(layer).__name__ == "Conv1D"
        if not (conv1d or isinstance(layer, nn.Linear)) or ("head" in name and not head):
            continue
        weight = layer.weight.detach().t().contiguous() if conv1d else layer.weight.detach().clone()
        linear = bnb.nn.Linear4bit(weight.shape[1], weight.shape[0], bias=layer.bias is not None, quant_type="nf4")
        linear.weight = bnb.nn.Params4bit(weight, requires_grad=False, compress_statistics=True, quant_type="nf4")
        linear.bias = layer.bias
        parent, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(parent), attribute, linear.to("cpu"))
    return module.eval()


def variants(plain: nn.Module, case: str) -> dict[str, tuple[nn.Module, bool]]:
    """Return name → the model in that form, and whether its float32 products may be in bf16."""
    import zoo

    plain = plain.eval().requires_grad_(False)
    head = "lm_head" if case == "llama" else "wte"

    def wrapped(bits: object, lora: bool = False) -> nn.Module:
        model = zoo.wrap(copy.deepcopy(plain), bits=bits, lora=zoo.LoRA(rank=8) if lora else None)
        for name, parameter in model.module.named_parameters():
            if name.endswith(".B"):
                nn.init.normal_(parameter, std=0.01)  # not zero, unlike a new adapter's
        return model.module.eval()

    layers = zoo.Quantization(4, mixed=False, keep=(head,))
    four = zoo.Quantization(4, mixed=False)
    found = {
        "float32": (plain, False),
        "bf16": (copy.deepcopy(plain).bfloat16(), False),
        "float32 LoRA": (wrapped(None, True), False),
        "4 bit": (wrapped(four), False),
        "4 bit LoRA": (wrapped(four, True), False),
        "4 bit, layers": (wrapped(layers), False),
        "8 bit": (wrapped(8), False),
        "4 bit, bf16 products": (wrapped(four), True),
        "4 bit LoRA, bf16 products": (wrapped(four, True), True),
        "4 bit, layers, bf16 products": (wrapped(layers), True),
        "4 bit, bf16 model": (wrapped(four).bfloat16(), False),
        "bitsandbytes, layers": (bitsandbytes_layers(plain, False), False),
    }
    if case == "llama":
        found["bitsandbytes"] = (bitsandbytes_layers(plain, True), False)
    return found


def decoder(module: nn.Module, in_bf16: bool, batch: int, tokens: int) -> Callable[[], torch.Tensor]:
    """Return a function that decodes tokens one by one from an empty cache, and returns the last logits."""
    from transformers import DynamicCache

    import zoo

    vocabulary = module.config.vocab_size
    argument = "cache" if "cache" in inspect.signature(type(module).forward).parameters else "past_key_values"
    sequence = torch.randint(vocabulary, (batch, tokens), generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def decode() -> torch.Tensor:
        cache = DynamicCache(config=module.config)
        zoo.allow_bf16_products(in_bf16)
        for position in range(tokens):
            given = sequence[:, position : position + 1]
            logits: torch.Tensor = module(given, use_cache=True, **{argument: cache}).logits
        zoo.allow_bf16_products(False)
        return logits

    return decode


def main() -> None:
    """Print a row for each variant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--only", nargs="+", help="only these variants, and float32")
    parser.add_argument("--quick", action="store_true", help="tiny models, 2 rounds: checks the script, no figures")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rounds, tokens = (2, 2) if options.quick else (options.rounds, TOKENS)
    results: dict[str, dict[str, dict[str, float]]] = {}
    for case in options.models:
        models = variants(CASES[case](options.quick), case)
        chosen = [name for name in models if not options.only or name in ("float32", *options.only)]
        calls = {name: decoder(*models[name], options.batch, tokens) for name in chosen}
        exact = calls["float32"]()
        errors = {name: float((call().float() - exact).norm() / exact.norm()) for name, call in calls.items()}
        seconds = interleaved(calls, rounds)
        results[case] = {}
        for name, own in seconds.items():
            ratios = [one / floor for one, floor in zip(own, seconds["float32"], strict=True)]
            results[case][name] = {
                "milliseconds": 1e3 * statistics.median(own) / tokens,
                "ratio": statistics.median(ratios),
                "smallest": min(ratios),
                "largest": max(ratios),
                "error": errors[name],
            }
    if options.json:
        print(json.dumps({"rounds": rounds, "batch": options.batch, "figures": results}, indent=1))
        return
    for case, rows in results.items():
        print(f"{case}, batch {options.batch}: ratio to float32 (spread), ms a token, relative error of the logits")
        for name, row in rows.items():
            spread = f"({row['smallest']:.2f}–{row['largest']:.2f})"
            print(f"  {name:<30}{row['ratio']:6.2f} {spread:<14}{row['milliseconds']:8.2f}{row['error']:10.1e}")


if __name__ == "__main__":
    main()
