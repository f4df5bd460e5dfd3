"""Tokens a second of greedy decoding, and images a second of the carried ddpm's sampler."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import nn

import zoo
from on_gpu.cases import in_four_bit
from on_gpu.clock import once, release
from on_gpu.parts import Row, Setup
from on_gpu.record import failed
from zoo.weights.triton.paths import torch_only

BATCHES = (1, 8, 64)


def llama(setup: Setup) -> nn.Module:
    """Return a Llama-like model of 1.2 billion parameters with random weights, made on the device."""
    from transformers import LlamaConfig, LlamaForCausalLM

    width, layers = (64, 1) if setup.quick else (2048, 16)
    config = LlamaConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=width // 64,
        num_key_value_heads=max(1, width // 256), vocab_size=1000 if setup.quick else 32000,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(setup.device):
        return LlamaForCausalLM(config).to(torch.bfloat16).requires_grad_(False).eval()


def rows(setup: Setup) -> Iterator[Row]:
    """Yield tokens a second of each variant and batch size, then sampling."""
    plain = llama(setup)
    tokens = 4 if setup.quick else 64

    def ours(bits: int, lora: int | None) -> nn.Module:
        return zoo.wrap(copy.deepcopy(plain), bits=bits, lora=lora and zoo.LoRA(rank=lora, targets="all")).module.eval()

    variants: dict[str, Callable[[], nn.Module]] = {
        "bf16": lambda: plain,
        "zoo 4-bit": lambda: ours(4, None),
        "zoo 4-bit LoRA": lambda: ours(4, 16),
        "zoo 8-bit": lambda: ours(8, None),
        "bitsandbytes 4-bit": lambda: in_four_bit(copy.deepcopy(plain)),
    }
    for name, make in variants.items():
        try:
            module = make()
        except Exception as trouble:
            yield failed({"variant": name}, trouble)
            continue
        for batch in BATCHES[:1] if setup.quick else BATCHES:
            row = {"variant": name, "batch": batch}
            try:
                yield {**row, "tokens/s": _speed(setup, module, batch, tokens)}
                if name == "zoo 4-bit":
                    with torch_only():
                        yield {
                            **row,
                            "variant": name + ", torch's kernels",
                            "tokens/s": _speed(setup, module, batch, tokens),
                        }
            except Exception as trouble:
                yield failed(row, trouble)
        module = None  # type: ignore[assignment]
        release(setup.device)
    yield from _sampling(setup)


@torch.inference_mode()
def _speed(setup: Setup, module: nn.Module, batch: int, tokens: int) -> float:
    ids = torch.randint(1000, (batch, 16), device=setup.device)

    def run() -> None:
        module.generate(ids, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0)  # type: ignore[operator]

    run()
    return batch * tokens / min(once(run, setup.device) for _ in range(1 if setup.quick else 3))


def _sampling(setup: Setup) -> Iterator[Row]:
    batch = 2 if setup.quick else 256
    for bits in (32, 8, 4):
        row = {"variant": f"ddpm, {bits} bit, LoRA", "batch": batch}
        try:
            model = zoo.load("ddpm", bits=bits, lora=16, device=setup.device)

            def run(model: zoo.Model = model) -> None:
                model.sample(batch, seed=0, steps=2 if setup.quick else 50)

            run()
            yield {**row, "images/s": batch / once(run, setup.device)}
        except Exception as trouble:
            yield failed(row, trouble)
