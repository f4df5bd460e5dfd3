"""Train the embedded model from nothing: an autoencoder of sans capitals whose prior can be sampled.

    python plugins/vae/pretrain.py --minutes 20 --threads 1 --seed 0

The loss is ½ Σ (x - x̂)² + β·KL in nats (arXiv 1312.6114), β = 1: a Gaussian decoder of unit variance on images in
[-1, 1]. The learning rate falls with the time used, so training ends on time on a fast and on a slow machine alike;
`--steps` makes it fall with the steps instead, which repeats a run exactly on the same machine. An average of the
weights is written every few minutes, each file whole or not at all.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import tempfile
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from zoo.data.letters import render

CONFIG = {
    "sample_size": 32,
    "in_channels": 1,
    "out_channels": 1,
    "latent_channels": 8,
    "layers_per_block": 1,
    "block_out_channels": (16, 32, 64, 64, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 5,
    "up_block_types": ("UpDecoderBlock2D",) * 5,
    "norm_num_groups": 16,
    "scaling_factor": 1.0,
    "force_upcast": False,
}
WARMUP_STEPS = 100
AVERAGE = 0.998


def letters(style: str, count: int, seed: int, split: str = "train") -> torch.Tensor:
    """Images `[n, 1, 32, 32]` in [-1, 1]."""
    return render(style, count, seed=seed, split=split)[0] * 2 - 1


def terms(model: AutoencoderKL, images: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """½ Σ (x - x̂)² and the KL to N(0, I) in nats, means over the images; x̂ decodes mean + std · noise."""
    posterior = model.encode(images).latent_dist
    mean, variance = posterior.mean.float(), posterior.var.float()
    decoded = model.decode(mean + variance.sqrt() * noise).sample.float()
    kl = 0.5 * (mean.square() + variance - 1 - posterior.logvar.float()).flatten(1).sum(1).mean()
    return 0.5 * (decoded - images).square().flatten(1).sum(1).mean(), kl


@torch.no_grad()
def held_out(model: AutoencoderKL, style: str, count: int = 520) -> tuple[float, float]:
    """Both terms on held-out letters, noise from seed 0."""
    images = letters(style, count, seed=0, split="test")
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((count, *latent_shape()), generator=generator)
    parts = [terms(model, images[i : i + 52], noise[i : i + 52]) for i in range(0, count, 52)]
    error, kl = (torch.stack(values).mean().item() for values in zip(*parts, strict=True))
    return error, kl


def latent_shape() -> tuple[int, int, int]:
    side = CONFIG["sample_size"] // 2 ** (len(CONFIG["block_out_channels"]) - 1)
    return CONFIG["latent_channels"], side, side


def save(model: AutoencoderKL, folder: Path, kl_weight: float) -> None:
    """Write the model in half precision, replacing each file in one move."""
    folder.mkdir(parents=True, exist_ok=True)
    half = AutoencoderKL(**CONFIG)
    half.load_state_dict(model.state_dict())
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        half.half().save_pretrained(scratch)
        written = Path(scratch) / "config.json"
        config = {**json.loads(written.read_text()), "_kl_weight": kl_weight}
        written.write_text(json.dumps(config, indent=2) + "\n")
        sums = [
            f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
            for file in sorted(Path(scratch).iterdir())
        ]
        (Path(scratch) / "SHA256SUMS").write_text("".join(sums))
        for path in sorted(Path(scratch).iterdir()):
            path.chmod(0o644)  # made in a private folder, to be read by everyone
            path.replace(folder / path.name)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    model = AutoencoderKL(**CONFIG).to(device, memory_format=torch.channels_last)
    average = AutoencoderKL(**CONFIG).to(device).requires_grad_(False).eval()
    average.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=1e-3, betas=(0.9, 0.99))
    parameters = sum(p.numel() for p in model.parameters())
    print(f"seed {args.seed}, {parameters:,} parameters, batch {args.batch}, on {device}", flush=True)

    start = saved = time.monotonic()
    step, running = 0, [0.0, 0.0]
    while True:
        elapsed = time.monotonic() - start
        progress = step / args.steps if args.steps else elapsed / (60 * args.minutes)
        if progress >= 1:
            break
        rate = args.lr * min(1.0, (step + 1) / WARMUP_STEPS) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate

        images = letters("sans", args.batch, seed=args.seed * 1_000_000 + step).to(device)
        noise = torch.randn((args.batch, *latent_shape())).to(device)
        error, kl = terms(model, images, noise)
        loss = (error + args.kl_weight * kl) / images[0].numel()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        decay = min(AVERAGE, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, now in zip(average.parameters(), model.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)
        running = [r + (v.item() - r) * max(0.01, 1 / step) for r, v in zip(running, (error, kl), strict=True)]
        if step % 100 == 0:
            figures = f"½ SSE {running[0]:.2f}, KL {running[1]:.2f}"
            print(f"{elapsed / 60:5.1f} min  step {step:5d}  lr {rate:.1e}  {figures}", flush=True)
        if time.monotonic() - saved > 60 * args.save_every:
            error, kl = held_out(average.cpu(), "sans")
            save(average, args.out, args.kl_weight)
            average.to(device)
            print(
                f"{elapsed / 60:5.1f} min  step {step:5d}  held-out ½ SSE {error:.2f}, KL {kl:.2f}, written", flush=True
            )
            saved = time.monotonic()

    average.cpu()
    save(average, args.out, args.kl_weight)
    minutes = (time.monotonic() - start) / 60
    print(f"seed {args.seed}: {step} steps in {minutes:.1f} min")
    for style in ("sans", "serif"):
        error, kl = held_out(average, style)
        loss = (error + args.kl_weight * kl) / (CONFIG["in_channels"] * CONFIG["sample_size"] ** 2)
        print(f"held-out {style}: ½ SSE {error:.2f}, KL {kl:.2f} nats an image, loss {loss:.5f} a pixel")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20, help="time to train (default 20)")
    parser.add_argument("--steps", type=int, help="train this many steps instead, however long they take")
    parser.add_argument("--lr", type=float, default=2e-3, help="the highest learning rate (default 2e-3)")
    parser.add_argument("--kl-weight", type=float, default=1.0, help="β (default 1)")
    parser.add_argument("--save-every", type=float, default=4, help="minutes between checkpoints (default 4)")
    parser.add_argument("--batch", type=int, default=16, help="images in a step (default 16)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "zoo_vae" / "embedded")
    args = parser.parse_args()
    if args.minutes <= 0 or args.batch < 1 or args.kl_weight < 0:
        sys.exit("pretrain.py: --minutes and --batch must be positive, --kl-weight not negative.")
    torch.set_num_threads(args.threads)
    train(args)


if __name__ == "__main__":
    main()
