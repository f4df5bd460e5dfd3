"""Train the embedded model from nothing: 26 sans capitals, class-conditional DDPM (arXiv 2006.11239), cosine schedule.

    python plugins/ddpm/pretrain.py --minutes 38 --threads 1 --seed 0

The learning rate falls with the time used, so training ends on time on a fast and on a slow machine alike; `--steps`
makes it fall with the steps instead, which repeats a run exactly on the same machine. An average of the weights is
written every few minutes, each file whole or not at all.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DModel

from zoo.data.letters import LETTERS, render

CONFIG = {
    "sample_size": 32,
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": (32, 64, 96),
    "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    "num_class_embeds": 26,
    "norm_num_groups": 16,
    "attention_head_dim": 32,
}
SCHEDULER = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2", "variance_type": "fixed_small"}
WARMUP_STEPS = 100
AVERAGE = 0.999


def letters(style: str, count: int, seed: int, split: str = "train") -> tuple[torch.Tensor, torch.Tensor]:
    """Images `[n, 1, 32, 32]` in [-1, 1] and labels `[n]`."""
    images, labels = render(style, count, seed=seed, split=split)
    return images * 2 - 1, labels


@torch.no_grad()
def noise_error(model: UNet2DModel, scheduler: DDPMScheduler, style: str, count: int = 520) -> float:
    """Mean squared error of the predicted noise on held-out letters: timesteps on an even grid, noise from seed 0."""
    images, labels = letters(style, count, seed=0, split="test")
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=generator)
    steps = scheduler.config.num_train_timesteps
    times = ((torch.arange(count) + 0.5) * steps / count).long()[torch.randperm(count, generator=generator)]
    noisy = scheduler.add_noise(images, noise, times)
    errors = [
        (model(noisy[i : i + 52], times[i : i + 52], class_labels=labels[i : i + 52]).sample - noise[i : i + 52]) ** 2
        for i in range(0, count, 52)
    ]
    return torch.cat(errors).mean().item()


def save(model: UNet2DModel, scheduler: DDPMScheduler, folder: Path) -> None:
    """Write the model in half precision with its scheduler, replacing each file in one move."""
    folder.mkdir(parents=True, exist_ok=True)
    half = UNet2DModel(**CONFIG)
    half.load_state_dict(model.state_dict())
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        half.half().save_pretrained(scratch)
        scheduler.save_pretrained(scratch)
        written = Path(scratch) / "config.json"
        written.write_text(json.dumps({**json.loads(written.read_text()), "_class_names": list(LETTERS)}, indent=2))
        for path in sorted(Path(scratch).iterdir()):
            path.chmod(0o644)  # made in a private folder, to be read by everyone
            path.replace(folder / path.name)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    model = UNet2DModel(**CONFIG).to(device)
    average = UNet2DModel(**CONFIG).to(device).requires_grad_(False).eval()
    average.load_state_dict(model.state_dict())
    scheduler = DDPMScheduler(**SCHEDULER)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=1e-3, betas=(0.9, 0.99))
    parameters = sum(p.numel() for p in model.parameters())
    print(f"seed {args.seed}, {parameters:,} parameters, batch {args.batch}, on {device}", flush=True)

    start = saved = time.monotonic()
    step, running = 0, 1.0
    while True:
        elapsed = time.monotonic() - start
        progress = step / args.steps if args.steps else elapsed / (60 * args.minutes)
        if progress >= 1:
            break
        rate = args.lr * min(1.0, (step + 1) / WARMUP_STEPS) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate

        images, labels = letters("sans", args.batch, seed=args.seed * 1_000_000 + step)
        noise = torch.randn(images.shape)
        # One timestep from each of `batch` equal slices: as uniform as independent draws, with a steadier loss.
        share = (torch.randperm(args.batch) + torch.rand(args.batch)) / args.batch
        times = (
            (share * scheduler.config.num_train_timesteps).long().clamp(max=scheduler.config.num_train_timesteps - 1)
        )
        noisy = scheduler.add_noise(images, noise, times)
        with torch.autocast(device.type, torch.bfloat16):
            predicted = model(noisy.to(device), times.to(device), class_labels=labels.to(device)).sample
        loss = torch.nn.functional.mse_loss(predicted.float(), noise.to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        decay = min(AVERAGE, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, now in zip(average.parameters(), model.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)
        running += (loss.item() - running) * max(0.01, 1 / step)
        if step % 200 == 0:
            print(f"{elapsed / 60:5.1f} min  step {step:5d}  lr {rate:.1e}  loss {running:.4f}", flush=True)
        if time.monotonic() - saved > 60 * args.save_every:
            error = noise_error(average.cpu(), scheduler, "sans")
            save(average, scheduler, args.out)
            average.to(device)
            print(f"{elapsed / 60:5.1f} min  step {step:5d}  held-out noise MSE {error:.4f}, written", flush=True)
            saved = time.monotonic()

    average.cpu()
    save(average, scheduler, args.out)
    sans, serif = (noise_error(average, scheduler, style) for style in ("sans", "serif"))
    minutes = (time.monotonic() - start) / 60
    print(f"seed {args.seed}: {step} steps in {minutes:.1f} min, noise MSE {sans:.4f} (sans), {serif:.4f} (serif)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=38, help="time to train (default 38)")
    parser.add_argument("--steps", type=int, help="train this many steps instead, however long they take")
    parser.add_argument("--lr", type=float, default=1.5e-3, help="the highest learning rate (default 1.5e-3)")
    parser.add_argument("--save-every", type=float, default=4, help="minutes between checkpoints (default 4)")
    parser.add_argument("--batch", type=int, default=32, help="images in a step (default 32)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "zoo_ddpm" / "embedded")
    args = parser.parse_args()
    if args.minutes <= 0 or args.batch < 1:
        sys.exit("pretrain.py: --minutes and --batch must be positive.")
    torch.set_num_threads(args.threads)
    train(args)


if __name__ == "__main__":
    main()
