"""Trains the model that the plugin carries, from nothing: `python pretrain.py --minutes 4`, on sans letters."""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from zoo import BatchRequest
from zoo.storage import atomic
from zoo_dcgan.game import batches, evaluate, play
from zoo_dcgan.model import DCGAN

EMBEDDED = Path(__file__).parent / "zoo_dcgan" / "embedded"
CONFIG = {"_class_name": "DCGAN", "size": 32, "channels": 1, "latent": 64, "features": 32}
DECAY = 0.998  # of the running average of the weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--out", type=Path, default=EMBEDDED)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    module = DCGAN.from_config(CONFIG)
    for layer in module.modules():  # the paper's start
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, std=0.02)
    module = train(module, options.minutes, options.seed, options.lr)
    with torch.no_grad():
        print(evaluate(as_model(module), None))
    save(module, options.out)


def as_model(module: DCGAN) -> SimpleNamespace:
    return SimpleNamespace(module=module, device="cpu", dtype=torch.float32)


def train(module: DCGAN, minutes: float, seed: int, lr: float) -> DCGAN:
    """Adam without momentum on both players at once; gives the running average of the weights.

    The rate falls over the last half; it follows the processor's time, so a run ends on time.
    """
    model = as_model(module.train())
    average = copy.deepcopy(module)
    optimizer = torch.optim.Adam(module.parameters(), lr=lr, betas=(0.0, 0.99))
    rows = batches(model, None, BatchRequest(batch_size=32, seed=seed))
    begun = time.process_time()
    for step, batch in enumerate(rows):
        progress = (time.process_time() - begun) / (60 * minutes)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, 2.05 - 2 * progress)
        found = play(module, batch["images"], batch["z"])
        found.backward()
        optimizer.step()
        optimizer.zero_grad()
        decay = min(DECAY, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, now in zip(average.parameters(), module.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)
        if step % 250 == 0:
            print(f"{100 * progress:3.0f} %  step {step}  loss {found.item():.3f}", flush=True)
    _measure(average, rows)
    return average.eval()


@torch.no_grad()
def _measure(module: DCGAN, rows: object) -> None:
    """Running means and variances of the averaged weights, over 100 batches."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # the mean of all batches
    for _, batch in zip(range(100), rows, strict=False):
        module.discriminator(module(batch["z"]))
        module.discriminator(batch["images"])
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.1


def save(module: DCGAN, folder: Path) -> None:
    """config.json and the weights in float16, with their digest."""
    state = {name: t.half() if t.is_floating_point() else t for name, t in module.state_dict().items()}
    with atomic.staged_folder(folder) as staged:
        atomic.write_json(staged / "config.json", CONFIG)
        atomic.save_tensors(staged / "model.safetensors", state)
        sums = f"{atomic.digest(staged / 'model.safetensors')}  model.safetensors\n"
        atomic.write_text(staged / "SHA256SUMS", sums)


if __name__ == "__main__":
    main()
