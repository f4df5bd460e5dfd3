"""Train the embedded model from nothing: StyleGAN2 (arXiv 1912.04958) of 26 sans capitals, conditional on the letter.

    python plugins/stylegan/pretrain.py --minutes 31 --seed 0 --out first
    python plugins/stylegan/pretrain.py --minutes 11 --seed 1 --start first

or in one run of 42 minutes or more.

Generator and discriminator learn in the same step (see `zoo_stylegan/objective.py`), R1 every 16 steps, no path
length penalty. The learning rate falls over the last third of the time, so training ends on time on a fast and on a
slow machine alike; `--steps` makes that a third of the steps instead, which repeats a run exactly on the same machine.
Written is an average of the generator's weights, with the discriminator as it is; each file whole or not at all.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import sys
import tempfile
import time
from pathlib import Path

import torch

from zoo.data.letters import LETTERS, render
from zoo_stylegan.networks import StyleGAN2
from zoo_stylegan.objective import adversarial, mixed

CONFIG = {
    "_class_name": "StyleGAN2",
    "img_resolution": 32,
    "img_channels": 1,
    "z_dim": 64,
    "w_dim": 96,
    "c_dim": 26,
    "mapping_layers": 4,
    "conv_clamp": None,
    "channels": {"4": 96, "8": 96, "16": 64, "32": 32},
    "discriminator": {"channels": {"4": 96, "8": 96, "16": 64, "32": 32}, "mapping_layers": 1},
    "class_names": list(LETTERS),
}
WARMUP_STEPS = 50
AVERAGE = 0.998
W_AVERAGE = 0.995


def letters(style: str, count: int, seed: int, split: str = "train") -> tuple[torch.Tensor, torch.Tensor]:
    """Images `[n, 1, 32, 32]` in [-1, 1] and labels `[n]`."""
    images, labels = render(style, count, seed=seed, split=split)
    return images * 2 - 1, labels


@torch.no_grad()
def pixel_distance(model: StyleGAN2, style: str, count: int = 1040) -> float:
    """The figure `frechet_pixels` of `zoo_stylegan/figures.py`: smaller is better."""
    from zoo_stylegan.figures import frechet, small

    images, labels = letters(style, count, seed=0, split="test")
    z = torch.randn(count, model.config["z_dim"], generator=torch.Generator().manual_seed(0))
    drawn = torch.cat([model(z[i : i + 104], labels[i : i + 104]) for i in range(0, count, 104)])
    return frechet(small(drawn), small(images))


def save(model: StyleGAN2, folder: Path) -> None:
    """Write the model in half precision, replacing each file in one move."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        written = Path(scratch) / "model.safetensors"
        half = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
        save_file(half, written, metadata={"format": "pt"})
        (Path(scratch) / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
        lines = [
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
            for path in sorted(Path(scratch).iterdir())
        ]
        (Path(scratch) / "SHA256SUMS").write_text("".join(lines))
        for path in sorted(Path(scratch).iterdir()):
            path.chmod(0o644)  # made in a private folder, to be read by everyone
            path.replace(folder / path.name)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    model = StyleGAN2(CONFIG).to(device, memory_format=torch.channels_last)  # faster on a CPU
    if args.start:
        from safetensors.torch import load_file

        held = load_file(args.start / "model.safetensors")
        model.load_state_dict({name: tensor.float() for name, tensor in held.items()})
    average = copy.deepcopy(model).requires_grad_(False).eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr, betas=(0.0, 0.99), eps=1e-8, fused=True)
    sizes = [sum(p.numel() for p in part.parameters()) for part in (model.generator, model.discriminator)]
    print(f"seed {args.seed}, generator {sizes[0]:,}, discriminator {sizes[1]:,}, batch {args.batch}", flush=True)

    start = saved = time.monotonic()
    step, running = 0, torch.zeros(2)
    while True:
        elapsed = time.monotonic() - start
        progress = step / args.steps if args.steps else elapsed / (60 * args.minutes)
        if progress >= 1:
            break
        rate = args.lr * min(1.0, (step + 1) / WARMUP_STEPS, 0.02 + 0.98 * 3 * (1 - progress))
        for group in optimizer.param_groups:
            group["lr"] = rate

        images, labels = letters("sans", args.batch, seed=args.seed * 1_000_000 + step)
        images, labels = images.to(device), labels.to(device)
        z, other = torch.randn(2, args.batch, CONFIG["z_dim"]).to(device)
        crossover = int(torch.randint(1, 16, ()))  # beyond the layers as often as not: no mixing then
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
            w = model.generator.mapping(z, labels)
            mix = model.generator.mapping(other, labels) if crossover < model.generator.synthesis.num_ws else None
            ws = mixed(model.generator, w, mix, crossover)
            total, both = adversarial(
                model, images, labels, ws, index=step, seed=None, r1_gamma=args.gamma, path_weight=0.0
            )
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()
        step += 1
        decay = min(AVERAGE, (1 + step) / (10 + step))
        with torch.no_grad():
            model.generator.mapping.w_avg.lerp_(w.float().mean(0), 1 - W_AVERAGE)
            torch._foreach_lerp_(list(average.generator.parameters()), list(model.generator.parameters()), 1 - decay)
        running = both.float().cpu().lerp(running, min(0.99, 1 - 1 / step))
        if not math.isfinite(running.sum()):
            sys.exit(f"pretrain.py: the loss is not finite at step {step}")
        if step % 100 == 0:
            print(
                f"{elapsed / 60:5.1f} min  step {step:5d}  lr {rate:.1e}  loss D {running[0]:.3f} G {running[1]:.3f}",
                flush=True,
            )
        if time.monotonic() - saved > 60 * args.save_every:
            finish(model, average, args.out)
            print(f"{elapsed / 60:5.1f} min  step {step:5d}  written", flush=True)
            saved = time.monotonic()

    finish(model, average, args.out)
    average.cpu()
    sans, serif = (pixel_distance(average, style) for style in ("sans", "serif"))
    minutes = (time.monotonic() - start) / 60
    print(f"seed {args.seed}: {step} steps in {minutes:.1f} min, pixel distance {sans:.3f} (sans), {serif:.3f} (serif)")


@torch.no_grad()
def finish(model: StyleGAN2, average: StyleGAN2, out: Path) -> None:
    """Complete the average with what is not averaged, and write it."""
    average.generator.mapping.w_avg.copy_(model.generator.mapping.w_avg)
    for mean, now in zip(average.generator.buffers(), model.generator.buffers(), strict=True):
        mean.copy_(now)
    average.discriminator.load_state_dict(model.discriminator.state_dict())
    save(average, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=32, help="time to train (default 32)")
    parser.add_argument("--steps", type=int, help="train this many steps instead, however long they take")
    parser.add_argument("--start", type=Path, help="a folder that an earlier run wrote, to go on from")
    parser.add_argument("--lr", type=float, default=2e-3, help="the highest learning rate (default 2e-3)")
    parser.add_argument("--gamma", type=float, default=1.0, help="weight of the R1 penalty (default 1)")
    parser.add_argument("--save-every", type=float, default=4, help="minutes between checkpoints (default 4)")
    parser.add_argument("--batch", type=int, default=32, help="images in a step (default 32)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "zoo_stylegan" / "embedded")
    args = parser.parse_args()
    if args.minutes <= 0 or args.batch < 1:
        sys.exit("pretrain.py: --minutes and --batch must be positive.")
    torch.set_num_threads(args.threads)
    train(args)


if __name__ == "__main__":
    main()
