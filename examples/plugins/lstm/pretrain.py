"""Trains the model that the plugin carries, from nothing: `python pretrain.py --minutes 4`, on "text:english"."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from types import SimpleNamespace

import torch

from zoo import BatchRequest
from zoo.storage import atomic
from zoo_lstm.model import ByteLSTM
from zoo_lstm.text import batches, evaluate, loss

EMBEDDED = Path(__file__).parent / "zoo_lstm" / "embedded"
CONFIG = {"_class_name": "ByteLSTM", "embedding": 48, "hidden": 192, "layers": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=EMBEDDED)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    module = ByteLSTM.from_config(CONFIG)
    train(module, options.minutes, options.seed)
    with torch.no_grad():
        print(evaluate(SimpleNamespace(module=module.eval(), device="cpu"), None))
    save(module, options.out)


def train(module: ByteLSTM, minutes: float, seed: int, lr: float = 6e-3) -> None:
    """AdamW with a short warm-up and half a cosine; the rate follows the processor's time, so a run ends on time."""
    model = SimpleNamespace(module=module.train(), device="cpu")
    optimizer = torch.optim.AdamW(module.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.01)
    windows = batches(None, BatchRequest(batch_size=32, seed=seed))
    begun = time.process_time()
    for step, batch in enumerate(windows):
        progress = (time.process_time() - begun) / (60 * minutes)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * progress))
        found = loss(model, batch)
        found.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(f"{100 * progress:3.0f} %  step {step}  {found.item() / math.log(2):.3f} bits per byte", flush=True)


def save(module: ByteLSTM, folder: Path) -> None:
    """config.json and the weights in float16, with their digest."""
    with atomic.staged_folder(folder) as staged:
        atomic.write_json(staged / "config.json", CONFIG)
        atomic.save_tensors(staged / "model.safetensors", {name: t.half() for name, t in module.state_dict().items()})
        sums = f"{atomic.digest(staged / 'model.safetensors')}  model.safetensors\n"
        atomic.write_text(staged / "SHA256SUMS", sums)


if __name__ == "__main__":
    main()
