"""QLoRA of a Llama of 8 billion parameters, random weights made on the card: memory and tokens a second."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import zoo
from on_gpu.clock import once
from on_gpu.parts import Row, Setup
from on_gpu.record import failed


def rows(setup: Setup) -> Iterator[Row]:
    """Yield what making and packing the model took, then a row for each batch size, with and without checkpointing."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = (64, 128, 2, 2, 1, 1000) if setup.quick else (4096, 14336, 32, 32, 8, 128256)  # Llama 3 8B's
    width, inner, layers, heads, groups, words = sizes
    config = LlamaConfig(
        hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=groups, vocab_size=words, max_position_embeddings=8192,
    )  # fmt: skip
    on_card = setup.device.startswith("cuda")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(setup.device):
            module = LlamaForCausalLM(config)  # each tensor is made on the card in bf16: nothing on the host
    finally:
        torch.set_default_dtype(before)
    model = zoo.wrap(module, bits=4, lora=zoo.LoRA(rank=16, targets="all"), seed=0)
    found = model.footprint()
    yield {
        "what": "made and packed",
        "parameters": found.parameters,
        "stored GiB": found.bytes / 2**30,
        "peak GiB": torch.cuda.max_memory_allocated() / 2**30 if on_card else 0.0,
    }
    optimizer = torch.optim.AdamW([parameter for _, parameter in model.trainable_parameters()], lr=1e-4, fused=on_card)
    module.train()
    for checkpointing in (True, False):
        if checkpointing:
            module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        else:
            module.gradient_checkpointing_disable()
        for batch, length in ((1, 8),) if setup.quick else ((1, 512), (1, 2048), (4, 2048)):
            row = {"what": f"{batch} × {length}", "checkpointing": checkpointing}
            try:
                yield {**row, **_measured(setup, module, optimizer, batch, length)}
            except Exception as trouble:
                optimizer.zero_grad(set_to_none=True)
                yield failed(row, trouble)


def _measured(
    setup: Setup, module: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: int, length: int
) -> dict[str, float]:
    ids = torch.randint(1000, (batch, length), device=setup.device)

    def step() -> None:
        module(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    on_card = setup.device.startswith("cuda")
    step()
    if on_card:
        torch.cuda.reset_peak_memory_stats()
    times = sorted(once(step, setup.device) for _ in range(1 if setup.quick else 3))
    return {
        "tokens/s": batch * length / times[len(times) // 2],
        "peak GiB": torch.cuda.max_memory_allocated() / 2**30 if on_card else 0.0,
    }
