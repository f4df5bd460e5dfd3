"""One step of decoding for a batch whose rows have different adapters: the base's products once, or once per adapter.

    python benchmarks/rows.py [--model gpt2] [--batch 64] [--adapters 8] [--rounds 7] [--json] [--quick]

Random weights in 4 bit of GPT-2 (768 wide, 6 layers, 50,257 tokens), of a model like Llama (512 wide, 6 layers, 8,000
tokens) or of one as small as the catalogue's gpt (192 wide, 5 layers, 3,072 tokens); LoRA of rank 8 on all weights but
the table and the head, rows in random order, without a cache of keys and values, so one token of context. One thread,
CPU time, rounds interleaved. "one run" is `zoo.weights.choice.row_views` that are kept, as a server
keeps them; "dense" is the same with the weights' dense forms kept (`model.caching("dense")`); "model(adapters=)" is the
call of the public name; "run per adapter" is the same call where one run is not trusted. PEFT's `adapter_names=` is of
the float32 model. Ratios are to the base alone of the same library and bits, in the same round.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
from decoding import gpt2
from timing import interleaved
from torch import nn

LAYERS = {
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "gpt": ["c_attn", "c_proj", "c_fc"],
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}


def small_gpt(quick: bool) -> nn.Module:
    """Return a GPT-2 of the size of the catalogue's."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(n_embd=192, n_head=6, n_layer=2 if quick else 5, vocab_size=3072))


def llama(quick: bool) -> nn.Module:
    """Return a model like Llama, 512 wide."""
    from transformers import LlamaConfig, LlamaForCausalLM

    width, layers = (64, 2) if quick else (512, 6)
    config = LlamaConfig(
        vocab_size=8000,
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
    )
    return LlamaForCausalLM(config)


MODELS = {"gpt2": gpt2, "gpt": small_gpt, "llama": llama}


def zoo_calls(
    plain: nn.Module, ids: torch.Tensor, rows: list[str], rank: int, layers: list[str]
) -> dict[str, Callable[[], Any]]:
    """Return the ways of zoo, after a check that they agree."""
    import zoo
    from zoo.adapters import fused_batch
    from zoo.weights.choice import choosing, keeping_dense, row_views
    from zoo.weights.kept_weight import KeptWeights
    from zoo.weights.walk import managed_weights

    names = sorted(set(rows))
    lora = {name: zoo.LoRA(rank=rank, targets=layers) for name in names}
    model = zoo.wrap(copy.deepcopy(plain), bits=zoo.Quantization(4, mixed=False), lora=lora)
    for name, parameter in model.module.named_parameters():
        if name.endswith(".B"):
            nn.init.normal_(parameter, std=0.02)
    model.deactivate()
    model.eval()
    weights = list(managed_weights(model.module).values())
    groups = [
        ({one: one.view((name,)) for one in weights}, [row for row, own in enumerate(rows) if own == name])
        for name in names
    ]

    same = row_views(groups)

    @torch.no_grad()
    def fused() -> torch.Tensor:
        with choosing(same):
            return model.module(ids, use_cache=False, position_ids=torch.zeros_like(ids)).logits

    kept = KeptWeights(math.inf, model.module)  # as in `model.caching("dense")`, and kept from call to call

    def dense() -> torch.Tensor:
        with keeping_dense(kept):
            return fused()

    @torch.no_grad()
    def public() -> torch.Tensor:
        return model(input_ids=ids, use_cache=False, adapters=rows).logits

    def apart() -> torch.Tensor:
        known = fused_batch._known.get(model.module, {})
        before = dict(known)
        known.update(dict.fromkeys(known, fused_batch.Verdict.NO))
        try:
            return public()
        finally:
            known.update(before)

    @torch.no_grad()
    def base() -> torch.Tensor:
        return model.module(ids, use_cache=False).logits

    public()
    wanted = apart()
    for way in (fused, dense, dense, public):
        assert float((way() - wanted).norm() / wanted.norm()) < 1e-5
    return {
        "base": base,
        "one run": fused,
        "one run, dense": dense,
        "model(adapters=)": public,
        "run per adapter": apart,
    }


def peft_calls(
    plain: nn.Module, ids: torch.Tensor, rows: list[str], rank: int, layers: list[str], conv1d: bool
) -> dict[str, Callable[[], Any]]:
    """Return PEFT's base and its mixed batch, in float32."""
    import peft

    first, *others = sorted(set(rows))
    config = peft.LoraConfig(r=rank, target_modules=layers, fan_in_fan_out=conv1d, init_lora_weights=False)
    model = peft.get_peft_model(copy.deepcopy(plain), config, adapter_name=first)
    for name in others:
        model.add_adapter(name, config)
    model.eval()

    @torch.no_grad()
    def mixed() -> torch.Tensor:
        return model(input_ids=ids, use_cache=False, adapter_names=rows).logits

    @torch.no_grad()
    def base() -> torch.Tensor:
        return plain(ids, use_cache=False).logits

    return {"PEFT base, float32": base, "PEFT adapter_names=, float32": mixed}


def main() -> None:
    """Print a row for each way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="gpt2")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="a tiny model, 2 rounds: checks the script, no figures")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    plain = MODELS[options.model](options.quick).eval().requires_grad_(False)
    ids = torch.randint(plain.config.vocab_size, (options.batch, 1))
    numbers = (torch.arange(options.batch) % options.adapters)[torch.randperm(options.batch)]
    rows = [f"adapter{number}" for number in numbers.tolist()]
    layers = LAYERS[options.model]
    calls = zoo_calls(plain, ids, rows, options.rank, layers)
    calls |= peft_calls(plain, ids, rows, options.rank, layers, options.model != "llama")
    seconds = interleaved(calls, 2 if options.quick else options.rounds)
    found = {}
    for name, own in seconds.items():
        floor = seconds["PEFT base, float32" if name.startswith("PEFT") else "base"]
        ratios = [one / other for one, other in zip(own, floor, strict=True)]
        found[name] = {
            "milliseconds": 1e3 * statistics.median(own),
            "ratio": statistics.median(ratios),
            "smallest": min(ratios),
            "largest": max(ratios),
        }
    if options.json:
        print(json.dumps({"batch": options.batch, "adapters": options.adapters, "figures": found}, indent=1))
        return
    for name, row in found.items():
        spread = f"({row['smallest']:.2f}–{row['largest']:.2f})"
        print(f"{name:<32}{row['ratio']:6.2f} {spread:<14}{row['milliseconds']:8.1f} ms")


if __name__ == "__main__":
    main()
