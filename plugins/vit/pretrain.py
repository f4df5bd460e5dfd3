"""Train the embedded model from nothing: a small vision transformer (arXiv 2010.11929) that reads 26 sans capitals.

    python plugins/vit/pretrain.py --minutes 12 --threads 1 --seed 0

Every batch is drawn anew and disturbed (stretched, sheared, turned, shifted, blurred, thickened, made faint, noisy), so
that letters which a generator draws a little wrong are still read, and their features lie where letters lie. The
learning rate falls with the time used, so training ends on time on a fast and on a slow machine alike; `--steps` makes
it fall with the steps instead, which repeats a run exactly on the same machine. An average of the weights is written
every few minutes, each file whole or not at all.
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

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from zoo.data.letters import LETTERS, render

ARCHITECTURE = "vit_tiny_patch16_224"  # timm's name; the arguments make it smaller
ARGUMENTS = {
    "img_size": 32,
    "patch_size": 4,
    "in_chans": 1,
    "num_classes": 26,
    "embed_dim": 96,
    "depth": 4,
    "num_heads": 4,
    "class_token": False,
    "global_pool": "avg",
}
CONFIG = {
    "architecture": ARCHITECTURE,
    "num_classes": 26,
    "num_features": 96,
    "global_pool": "avg",
    "model_args": ARGUMENTS,
    "label_names": list(LETTERS),
    "pretrained_cfg": {
        "tag": "letters",
        "input_size": [1, 32, 32],
        "fixed_input_size": True,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": [0.5],
        "std": [0.5],
        "num_classes": 26,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    },
}
WARMUP_STEPS = 150
AVERAGE = 0.998


def disturb(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images `[n, 1, h, w]` in [0, 1] as a careless hand would have drawn them, each in its own way."""
    count = len(images)

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    def sometimes(share: float) -> Tensor:
        return torch.rand(count, generator=generator) < share

    # From output to input: turn, then shear, then stretch, about the middle.
    turn, shear = between(-0.16, 0.16), between(-0.2, 0.2)
    wide, tall = between(0.85, 1.25), between(0.85, 1.25)
    cos, sin = turn.cos(), turn.sin()
    rows = [
        torch.stack([wide * (cos + shear * sin), wide * (shear * cos - sin), between(-0.12, 0.12)], -1),
        torch.stack([tall * sin, tall * cos, between(-0.12, 0.12)], -1),
    ]
    still = torch.eye(2, 3)[None]
    maps = torch.where(sometimes(0.8)[:, None, None], torch.stack(rows, 1), still)
    grid = functional.affine_grid(maps, list(images.shape), align_corners=False)
    images = functional.grid_sample(images, grid, align_corners=False)

    # Thicker: the brightest neighbour. Blurred: a binomial filter, once to three times.
    part = (between(0, 1) * sometimes(0.25)).view(-1, 1, 1, 1)
    images = images.lerp(functional.max_pool2d(images, 3, 1, 1), part)
    kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
    kernel = (kernel[:, None] * kernel)[None, None]
    for _ in range(3):
        part = (between(0, 1) * sometimes(0.3)).view(-1, 1, 1, 1)
        images = images.lerp(functional.conv2d(images, kernel, padding=1), part)

    # Faint ink, grey paper, noise of any strength up to a quarter of the range.
    ink, paper = (where.view(-1, 1, 1, 1) for where in (1 - between(0, 0.5) * sometimes(0.3), between(0, 0.25)))
    images = images * ink + (1 - images) * paper * sometimes(0.25).view(-1, 1, 1, 1)
    strength = (between(0, 0.25) * sometimes(0.4)).view(-1, 1, 1, 1)
    return (images + strength * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def letters(style: str, count: int, seed: int, split: str = "train") -> tuple[Tensor, Tensor]:
    """Images `[n, 1, 32, 32]` in [-1, 1] and labels `[n]`; those of "train" are disturbed."""
    images, labels = render(style, count, seed=seed, split=split)
    if split == "train":
        images = disturb(images, torch.Generator().manual_seed(seed))
    return images * 2 - 1, labels


@torch.no_grad()
def accuracy(model: nn.Module, style: str, count: int = 1300) -> float:
    """The share of held-out letters that the model names right."""
    images, labels = letters(style, count, seed=0, split="test")
    guesses = torch.cat([model(part).argmax(1) for part in images.split(100)])
    return (guesses == labels).float().mean().item()


def create() -> nn.Module:
    return timm.create_model(ARCHITECTURE, **ARGUMENTS)


def save(model: nn.Module, folder: Path) -> None:
    """Write the model in half precision as timm's repositories are, replacing each file in one move."""
    folder.mkdir(parents=True, exist_ok=True)
    half = {name: tensor.detach().half().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        scratch = Path(name)
        (scratch / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")
        save_file(half, scratch / "model.safetensors", metadata={"format": "pt"})
        digest = hashlib.sha256((scratch / "model.safetensors").read_bytes()).hexdigest()
        (scratch / "SHA256SUMS").write_text(f"{digest}  model.safetensors\n", encoding="utf-8")
        for path in sorted(scratch.iterdir()):
            path.chmod(0o644)  # made in a private folder, to be read by everyone
            path.replace(folder / path.name)


def groups(model: nn.Module, decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices alone, as is usual."""
    matrices = [p for name, p in model.named_parameters() if p.ndim > 1 and name != "pos_embed"]
    others = [p for name, p in model.named_parameters() if not (p.ndim > 1 and name != "pos_embed")]
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    model, average = create().to(device), create().to(device).requires_grad_(False).eval()
    average.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(groups(model, 0.05), lr=args.lr, betas=(0.9, 0.98))
    parameters = sum(p.numel() for p in model.parameters())
    print(f"seed {args.seed}, {parameters:,} parameters, batch {args.batch}, on {device}", flush=True)

    start = saved = time.monotonic()
    step, running, right = 0, 3.3, 0.0
    while True:
        elapsed = time.monotonic() - start
        progress = step / args.steps if args.steps else elapsed / (60 * args.minutes)
        if progress >= 1:
            break
        rate = args.lr * min(1.0, (step + 1) / WARMUP_STEPS) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate

        images, labels = letters("sans", args.batch, seed=args.seed * 1_000_000 + step)
        images, labels = images.to(device), labels.to(device)
        logits = model(images)
        loss = functional.cross_entropy(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        decay = min(AVERAGE, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, now in zip(average.parameters(), model.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)
        share = max(0.01, 1 / step)
        running += (loss.item() - running) * share
        right += ((logits.argmax(1) == labels).float().mean().item() - right) * share
        if step % 100 == 0:
            told = f"lr {rate:.1e}  loss {running:.4f}  right {right:.3f}"
            print(f"{elapsed / 60:5.1f} min  step {step:5d}  {told}", flush=True)
        if time.monotonic() - saved > 60 * args.save_every:
            figure = accuracy(average.cpu(), "sans", 520)
            save(average, args.out)
            average.to(device)
            print(f"{elapsed / 60:5.1f} min  step {step:5d}  held-out accuracy {figure:.4f}, written", flush=True)
            saved = time.monotonic()

    average.cpu()
    save(average, args.out)
    minutes = (time.monotonic() - start) / 60
    figures = ", ".join(f"{accuracy(average, style):.4f} ({style})" for style in ("sans", "serif", "italic", "mono"))
    print(f"seed {args.seed}: {step} steps in {minutes:.1f} min, accuracy {figures}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=12, help="time to train (default 12)")
    parser.add_argument("--steps", type=int, help="train this many steps instead, however long they take")
    parser.add_argument("--lr", type=float, default=2e-3, help="the highest learning rate (default 2e-3)")
    parser.add_argument("--save-every", type=float, default=4, help="minutes between checkpoints (default 4)")
    parser.add_argument("--batch", type=int, default=32, help="images in a step (default 32)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "zoo_vit" / "embedded")
    args = parser.parse_args()
    if args.minutes <= 0 or args.batch < 1:
        sys.exit("pretrain.py: --minutes and --batch must be positive.")
    torch.set_num_threads(args.threads)
    train(args)


if __name__ == "__main__":
    main()
