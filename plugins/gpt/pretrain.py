"""Trains the small GPT that the plugin carries, from nothing: `python plugins/gpt/pretrain.py --minutes 40`.

The text is "text:english" (the documentation of Python itself) and, for breadth, the docstrings of the packages that
the plugin needs anyway (numpy, torch, transformers). Paragraphs of the test split are in neither the tokenizer's nor
the model's training text. The tokenizer is a byte-level BPE; the model has GPT-2's architecture with tied embeddings.

The learning rate follows the clock, not a step count, so a run ends decayed and on time on a fast or a slow machine.
Two runs with one seed therefore differ a little: the faster one sees more text.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import math
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from zoo.data.text import package_prose, text_data
from zoo.storage.atomic import staged_folder

# Notation of the shapes: b windows in a batch, t tokens in a window, v tokens in the vocabulary.
PACKAGES = ("numpy", "torch", "transformers")
END = "<|endoftext|>"
EMBEDDED = Path(__file__).parent / "zoo_gpt" / "embedded"


def main() -> None:
    options = parse_arguments()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    english, breadth, held_out = read_texts()
    tokenizer = train_tokenizer(english + breadth, options.vocabulary, options.context)
    sources = [token_stream(tokenizer, texts, seed=options.seed).to(device) for texts in (english, breadth)]
    test_text = "\n\n".join(held_out)
    test_ids = torch.tensor(tokenizer(test_text)["input_ids"], device=device)
    model = build_model(options, tokenizer).to(device)
    size = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"seed {options.seed}, {size:,} parameters, {len(sources[0]):,} + {len(sources[1]):,} training tokens",
        flush=True,
    )
    print(f"held out: {len(test_ids):,} tokens, {len(test_text.encode()):,} bytes", flush=True)
    train(model, tokenizer, sources, (test_ids, len(test_text.encode())), options)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=40.0, help="wall-clock time of the training (default: 40)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=EMBEDDED, help="folder for the model and the tokenizer")
    parser.add_argument("--save-every", type=float, default=5.0, metavar="MINUTES", help="default: 5")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--vocabulary", type=int, default=3072)
    parser.add_argument("--context", type=int, default=256, help="tokens")
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1.5e-3, help="highest learning rate")
    return parser.parse_args()


def read_texts() -> tuple[list[str], list[str], list[str]]:
    """Paragraphs: English for training, the packages' for training, English held out."""
    english, held_out = text_data("text:english", split="train"), text_data("text:english", split="test")
    known = set(english)
    breadth = []
    for package in PACKAGES:
        folder = Path(importlib.util.find_spec(package).origin).parent
        new = [text for text in package_prose(folder) if text not in known]
        known.update(new)
        breadth += new
    return english, breadth, held_out


def train_tokenizer(texts: list[str], vocabulary: int, context: int) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(("\n\n" + text for text in texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        unk_token=END,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


def token_stream(tokenizer: PreTrainedTokenizerFast, texts: list[str], *, seed: int) -> Tensor:
    """One stream of token ids: documents of one to twelve neighbouring paragraphs, shuffled, each closed by END."""
    generator = torch.Generator().manual_seed(seed)
    documents, start = [], 0
    while start < len(texts):
        length = int(torch.randint(1, 13, (), generator=generator))
        documents.append("\n\n".join(texts[start : start + length]) + END)
        start += length
    order = torch.randperm(len(documents), generator=generator).tolist()
    ids = tokenizer([documents[index] for index in order])["input_ids"]
    return torch.tensor(list(itertools.chain.from_iterable(ids)))


def build_model(options: argparse.Namespace, tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=options.vocabulary,
        n_positions=options.context,
        n_embd=options.width,
        n_layer=options.layers,
        n_head=options.heads,
        activation_function="gelu_pytorch_tanh",  # the same function as GPT-2's gelu_new, in one kernel
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    return GPT2LMHeadModel(config)


def train(
    model: GPT2LMHeadModel,
    tokenizer: PreTrainedTokenizerFast,
    sources: list[Tensor],
    held_out: tuple[Tensor, int],
    options: argparse.Namespace,
) -> None:
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.95), fused=True)
    generator = torch.Generator().manual_seed(options.seed)
    bf16 = bf16_is_faster(model, sources[0], options)
    print(f"matrix products in {'bfloat16' if bf16 else 'float32'}", flush=True)
    begun = shown = saved = time.monotonic()
    tokens, recent = 0, []
    model.train()
    for step in itertools.count(1):
        now = time.monotonic()
        progress = (now - begun) / (60 * options.minutes)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = options.lr * learning_rate(progress, step)
        # Breadth first, then more and more of the text that the model is judged by.
        share = 0.2 + 0.5 * progress
        batch = draw(sources, share, options, generator)
        loss = loss_of(model, batch, bf16)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tokens += batch.numel()
        recent.append(loss.detach())
        if now - shown > 30:
            mean = torch.stack(recent).mean().item()
            print(
                f"{(now - begun) / 60:5.1f} min  step {step}  loss {mean:.3f}  {tokens / (now - begun):,.0f} tokens/s",
                flush=True,
            )
            shown, recent = now, []
        if now - saved > 60 * options.save_every:
            report(model, tokenizer, held_out, options)
            save(model, tokenizer, options.out)
            saved = time.monotonic()
    print(f"{step - 1} steps, {tokens:,} tokens in {(time.monotonic() - begun) / 60:.1f} minutes", flush=True)
    report(model, tokenizer, held_out, options)
    save(model, tokenizer, options.out)


def learning_rate(progress: float, step: int) -> float:
    """Linear warm-up over 150 steps, then half a cosine over the time down to 2 %, as a factor of the highest rate."""
    return min(step / 150, 1.0) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def draw(sources: list[Tensor], share: float, options: argparse.Namespace, generator: torch.Generator) -> Tensor:
    """[b, t + 1] windows at random places, each of the first source with probability `share`, else of the second."""
    windows = []
    for _ in range(options.batch_size):
        source = sources[0 if float(torch.rand((), generator=generator)) < share else 1]
        start = int(torch.randint(len(source) - options.context - 1, (), generator=generator))
        windows.append(source[start : start + options.context + 1])
    return torch.stack(windows)


def loss_of(model: GPT2LMHeadModel, windows: Tensor, bf16: bool) -> Tensor:
    """Mean cross entropy in nats of each token given those before it, for windows [b, t + 1]."""
    with torch.autocast(windows.device.type, torch.bfloat16, enabled=bf16):
        logits = model(input_ids=windows[:, :-1], use_cache=False).logits  # b t v
    return functional.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten())


def bf16_is_faster(model: GPT2LMHeadModel, source: Tensor, options: argparse.Namespace) -> bool:
    seconds = {}
    for bf16 in (False, True):
        for _ in range(3):  # the last of three counts: the first ones warm up
            start = time.monotonic()
            loss_of(model, draw([source], 1.0, options, torch.Generator().manual_seed(0)), bf16).backward()
            seconds[bf16] = time.monotonic() - start
        model.zero_grad()
    return seconds[True] < seconds[False]


@torch.no_grad()
def report(
    model: GPT2LMHeadModel,
    tokenizer: PreTrainedTokenizerFast,
    held_out: tuple[Tensor, int],
    options: argparse.Namespace,
) -> None:
    """Prints held-out figures, each token predicted once, and a sample."""
    model.eval()
    ids, size = held_out
    total = 0.0
    for start in range(0, len(ids) - 1, options.context):
        window = ids[start : start + options.context + 1][None]
        total += loss_of(model, window, False).item() * (window.shape[1] - 1)
    loss = total / (len(ids) - 1)
    print(f"held out: perplexity {math.exp(loss):.2f}, {total / math.log(2) / size:.4f} bits per byte", flush=True)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        prompt = torch.full((1, 1), tokenizer.bos_token_id, device=ids.device)
        mask = torch.ones_like(prompt)
        out = model.generate(prompt, attention_mask=mask, do_sample=True, top_p=0.9, max_new_tokens=80, pad_token_id=0)
    print(tokenizer.decode(out[0, 1:]), flush=True)
    model.train()


def save(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes the model in float16 and the tokenizer; each file is replaced whole: a reader never sees half of one."""
    half = GPT2LMHeadModel(model.config)
    half.load_state_dict(model.state_dict())
    with staged_folder(folder) as staged:
        half.half().save_pretrained(staged)
        tokenizer.save_pretrained(staged)
        for file in staged.iterdir():  # safetensors makes files that only their owner may read
            file.chmod(0o644)


if __name__ == "__main__":
    main()
