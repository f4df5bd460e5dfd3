"""Training step and forward pass of a transformer and a convolutional U-Net: zoo, PEFT and the frozen floor.

    python benchmarks/step.py [--models bert unet] [--rank 8] [--device cuda] [--json] [--quick]

A step is forward, loss and backward; the optimizer is the same for all and left out. The *frozen floor* is the model
without adapters, its weights frozen, with an input that requires grad: the gradient flows through every layer to the
input, and nothing is computed for any weight. Ours and PEFT adapt the same weights at the same rank. Times are medians
over interleaved rounds (CPU time of one thread; wall time on CUDA); ratios are to the floor in the same round. Memory
is what a step keeps for backward (CPU: saved tensors, each storage once, parameters not counted; CUDA:
max_memory_allocated over what was allocated before the step).
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timing import interleaved, median, ratio
from torch import Tensor, nn

Case = tuple[
    nn.Module, list[str], Callable[[nn.Module, bool], Tensor]
]  # module, adapted layers, loss of (module, floor)


def bert(quick: bool, device: str) -> Case:
    """Return BERT, 4 layers of 768, batch 4 x 128; every Linear of the encoder is adapted."""
    from transformers import BertConfig, BertModel

    size = {"hidden_size": 64, "intermediate_size": 128} if quick else {}
    torch.manual_seed(0)
    module = BertModel(BertConfig(num_hidden_layers=4, num_attention_heads=4 if quick else 12, **size))
    embedded = torch.randn(4, 16 if quick else 128, module.config.hidden_size, device=device)

    def loss(model: nn.Module, floor: bool) -> Tensor:
        inputs = embedded.detach().requires_grad_(floor)
        return model(inputs_embeds=inputs).last_hidden_state.square().mean()

    layers = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear) and "encoder" in name]
    return module, layers, loss


def unet(quick: bool, device: str) -> Case:
    """Return UNet2DModel of 64 and 128 channels at 32 x 32, batch 8; every convolution and Linear is adapted."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    module = UNet2DModel(
        sample_size=32,
        block_out_channels=(32, 32) if quick else (64, 128),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )
    size = 8 if quick else 32
    noisy, times = torch.randn(8, 3, size, size, device=device), torch.arange(8, device=device)

    def loss(model: nn.Module, floor: bool) -> Tensor:
        inputs = noisy.detach().requires_grad_(floor)
        return model(inputs, times).sample.square().mean()

    layers = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    return module, layers, loss


CASES = {"bert": bert, "unet": unet}


def variants(plain: nn.Module, layers: list[str], rank: int) -> dict[str, nn.Module | str]:
    """Return name → the model in that form, or why there is none. B is not zero, unlike a new adapter's."""
    import zoo

    plain.requires_grad_(False).train()
    lora = zoo.LoRA(rank=rank, alpha=rank, targets=layers)
    models: dict[str, nn.Module | str] = {"frozen floor": plain}
    for name, bits in (("zoo LoRA", None), ("zoo 4-bit LoRA", 4), ("zoo 8-bit LoRA", 8)):
        models[name] = zoo.wrap(copy.deepcopy(plain), bits=bits, lora=lora).module
    models |= peft_variants(plain, layers, rank)
    for module in models.values():
        if isinstance(module, nn.Module):
            for parameter in module.parameters():
                if parameter.requires_grad:
                    nn.init.normal_(parameter, std=0.01)
    return models


def peft_variants(plain: nn.Module, layers: list[str], rank: int) -> dict[str, nn.Module | str]:
    """Return name → the model adapted by PEFT, or why there is none."""
    try:
        import peft
    except ImportError:
        return {"PEFT LoRA": "peft is not installed", "PEFT 4-bit LoRA": "peft is not installed"}
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=layers)
    models: dict[str, nn.Module | str] = {"PEFT LoRA": peft.inject_adapter_in_model(config, copy.deepcopy(plain))}
    if any(isinstance(plain.get_submodule(name), nn.Conv2d) for name in layers):
        return models | {"PEFT 4-bit LoRA": "bitsandbytes has no 4-bit convolution"}
    import bitsandbytes as bnb

    quantized = copy.deepcopy(plain)
    for name in layers:
        linear = quantized.get_submodule(name)
        four = bnb.nn.Linear4bit(
            linear.in_features,
            linear.out_features,
            compute_dtype=torch.float32,
            compress_statistics=True,
            quant_type="nf4",
        )
        four.weight = bnb.nn.Params4bit(
            linear.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4"
        )
        four.bias = linear.bias
        parent, _, attribute = name.rpartition(".")
        setattr(quantized.get_submodule(parent), attribute, four.to(linear.weight.device))
    try:
        return models | {"PEFT 4-bit LoRA": peft.inject_adapter_in_model(config, quantized)}
    except Exception as error:  # what PEFT can do depends on its version and the device
        return models | {"PEFT 4-bit LoRA": f"{type(error).__name__}: {error}"}


@contextmanager
def kept_bytes(module: nn.Module, found: list[int]) -> Iterator[None]:
    """Append to `found` the bytes that a graph built in the block keeps for its backward pass."""
    parameters = {tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *module.buffers())}
    storages: dict[int, tuple[int, Any]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = (storage.nbytes(), tensor.detach())  # alive, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield
    found.append(sum(size for size, _ in storages.values()))


def step_memory(module: nn.Module, step: Callable[[], object], forward: Callable[[], Tensor], device: str) -> int:
    """Return the bytes that a step keeps for its backward pass.

    Args:
        module: the model.
        step: forward and backward pass.
        forward: forward pass with a graph.
        device: where they run.
    """
    if device.startswith("cuda"):
        step()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    found: list[int] = []
    with kept_bytes(module, found):
        forward()
    return found[0]


def run_case(case: Case, rank: int, rounds: int, device: str) -> dict[str, dict[str, Any] | str]:
    """Return variant → its measurements, or why there are none."""
    plain, layers, loss = case
    results: dict[str, dict[str, Any] | str] = {}
    steps, forwards, memory = {}, {}, {}
    for name, module in variants(plain.to(device), layers, rank).items():
        if isinstance(module, str):
            results[name] = module
            continue
        floor = name == "frozen floor"

        def step(module: nn.Module = module, floor: bool = floor) -> None:
            loss(module, floor).backward()
            module.zero_grad(set_to_none=True)

        def forward(module: nn.Module = module) -> Tensor:
            with torch.no_grad():
                return loss(module, False)

        try:
            step()
        except Exception as error:
            results[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            continue
        results[name] = {}
        steps[name], forwards[name] = step, forward
        memory[name] = step_memory(module, step, lambda: loss(module, floor), device)  # noqa: B023 - called at once
    for task, calls in (("step", steps), ("forward", forwards)):
        seconds = interleaved(calls, rounds, device)
        for name, one in seconds.items():
            results[name][task] = {"seconds": median(one), "ratio": ratio(one, seconds["frozen floor"])}  # type: ignore[index]
    for name, kept in memory.items():
        results[name]["kept_bytes"] = kept  # type: ignore[index]
    return results


def main() -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=sorted(CASES), default=sorted(CASES))
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--quick", action="store_true", help="tiny models, 2 rounds: checks the script, measures nothing"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rounds = 2 if options.quick else options.rounds
    found = {
        name: run_case(CASES[name](options.quick, options.device), options.rank, rounds, options.device)
        for name in options.models
    }
    if options.json:
        print(
            json.dumps({"rank": options.rank, "rounds": rounds, "device": options.device, "figures": found}, indent=1)
        )
        return
    for name, results in found.items():
        print(
            f"{(CASES[name].__doc__ or '').removeprefix('Return ')} Rank {options.rank}; ratio to the frozen floor (ms)"
        )
        print(f"{'':<18}{'step':>18}{'forward, no grad':>20}{'kept for backward':>20}")
        for variant, cells in results.items():
            if isinstance(cells, str):
                print(f"{variant:<18}  not possible: {cells}")
                continue
            times = [f"{cells[task]['ratio']:.3f} ({cells[task]['seconds'] * 1e3:.1f})" for task in ("step", "forward")]
            print(f"{variant:<18}{times[0]:>18}{times[1]:>20}{cells['kept_bytes'] / 2**20:>16.1f} MiB")


if __name__ == "__main__":
    main()
