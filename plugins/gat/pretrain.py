"""Train the embedded model from nothing: which letter a node of a graph of sans capitals is.

    python plugins/gat/pretrain.py --minutes 2 --threads 1 --seed 0

The graph's nodes are images, their features 16×16 pixels, and each hears from the 8 images most like it
(`zoo_gat.graphs`). Every four steps look at a fresh graph, drawn with a seed of its own. The learning rate falls with
the time used, so training ends on time on a fast and on a slow machine alike; `--steps` makes it fall with the steps
instead, which repeats a run exactly on the same machine. The files are written at the end, each whole or not at all.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch_geometric.nn.models import GAT

from zoo.data.letters import LETTERS, render
from zoo_gat import files, graphs

CONFIG = {
    "in_channels": graphs.SIDE**2,
    "hidden_channels": 128,
    "num_layers": 2,
    "out_channels": 26,
    "heads": 8,
    "v2": False,
    "residual": True,
    "dropout": 0.0,
    "act": "elu",
}
WARMUP_STEPS = 20
FRESH = 4  # steps on one graph


def drawn(seed: int, nodes: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features `[n, 256]`, edges `[2, e]` and labels `[n]` of a graph of sans letters."""
    images, labels = render("sans", nodes, seed=seed, size=2 * graphs.SIDE)
    x = torch.nn.functional.avg_pool2d(images, 2).flatten(1)
    return x, graphs.nearest(x, graphs.NEIGHBOURS), labels


@torch.no_grad()
def held_out(model: GAT, style: str) -> tuple[float, float]:
    """Accuracy and cross entropy over the nodes of the held-out graph."""
    graph = graphs.letters(style, "test")
    logits = model.eval()(graph.x, graph.edge_index)
    right = (logits.argmax(1) == graph.y).float().mean().item()
    return right, torch.nn.functional.cross_entropy(logits, graph.y).item()


def save(model: GAT, folder: Path) -> None:
    """Write the model in half precision, replacing each file in one move."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch)
        files.write(made, CONFIG, list(LETTERS))
        half = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
        save_file(half, made / "model.safetensors", metadata={"format": "pt"})
        sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in sorted(made.iterdir())]
        (made / "SHA256SUMS").write_text("".join(sums))
        for path in sorted(made.iterdir()):
            path.chmod(0o644)  # made in a private folder, to be read by everyone
            path.replace(folder / path.name)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    model = GAT(**CONFIG).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=1e-3)
    print(f"seed {args.seed}, {sum(p.numel() for p in model.parameters()):,} parameters, on {device}", flush=True)

    start, step = time.monotonic(), 0
    while True:
        elapsed = time.monotonic() - start
        progress = step / args.steps if args.steps else elapsed / (60 * args.minutes)
        if progress >= 1:
            break
        rate = args.lr * min(1.0, (step + 1) / WARMUP_STEPS) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        if step % FRESH == 0:
            x, edges, labels = (t.to(device) for t in drawn(args.seed * 1_000_000 + step // FRESH, args.nodes))
        loss = torch.nn.functional.cross_entropy(model(x, edges), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
        if step % 50 == 0:
            print(f"{elapsed:5.0f} s  step {step:4d}  lr {rate:.1e}  loss {loss.item():.4f}", flush=True)

    model.cpu()
    save(model, args.out)
    seconds = time.monotonic() - start
    figures = (
        f"{style} {right:.4f}, loss {loss:.4f}"
        for style in ("sans", "serif")
        for right, loss in [held_out(model, style)]
    )
    print(f"seed {args.seed}: {step} steps in {seconds:.0f} s, held-out accuracy: {'; '.join(figures)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2, help="time to train (default 2)")
    parser.add_argument("--steps", type=int, help="train this many steps instead, however long they take")
    parser.add_argument("--lr", type=float, default=5e-3, help="the highest learning rate (default 5e-3)")
    parser.add_argument("--nodes", type=int, default=1300, help="nodes of a graph (default 1300)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "zoo_gat" / "embedded")
    args = parser.parse_args()
    if args.minutes <= 0 or args.nodes <= graphs.NEIGHBOURS:
        sys.exit(f"pretrain.py: --minutes must be positive, --nodes more than {graphs.NEIGHBOURS}.")
    torch.set_num_threads(args.threads)
    train(args)


if __name__ == "__main__":
    main()
