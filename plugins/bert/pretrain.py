"""Trains the small BERT that the plugin carries, from nothing: `python plugins/bert/pretrain.py --minutes 25`.

The text is "text:english" (the documentation of Python itself) and, for breadth, the docstrings of the packages that
the plugin needs anyway (numpy, torch, transformers). Paragraphs of the test split are in neither the tokenizer's nor
the model's training text. The tokenizer is a byte-level BPE with BERT's special tokens.

What makes a few minutes enough: positions start as sinusoids (arXiv 1706.03762) and the first layer's heads at the
neighbours, so that attention to them need not be invented first; more than 15 % of the tokens are masked at first
(arXiv 2212.05096); logits are computed only where something is to be predicted. One window in eight is masked at a rate
drawn from all rates, as mask-predict needs.

The learning rate follows the clock, not a step count, so a run ends decayed and on time on a fast or a slow machine.
Two runs with one seed therefore differ a little: the faster one sees more text.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import itertools
import math
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from zoo.data.text import package_prose, text_data
from zoo.storage.atomic import staged_folder

# Notation of the shapes: b windows in a batch, t tokens in a window, m masked tokens in a batch, v in the vocabulary.
PACKAGES = ("numpy", "torch", "transformers")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, UNK, CLS, SEP, MASK = range(5)
EMBEDDED = Path(__file__).parent / "zoo_bert" / "embedded"
SHARPNESS = 2.0  # of the first layer's heads at the start
ANY_RATE = 1 / 8  # share of the windows that are masked at a rate from 0 to 1


def main() -> None:
    options = parse_arguments()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    english, breadth, held_out = read_texts()
    tokenizer = train_tokenizer(english + breadth, options.vocabulary, options.context)
    sources = [token_stream(tokenizer, texts, seed=options.seed).to(device) for texts in (english, breadth)]
    test_ids = tokenizer("\n\n".join(held_out), add_special_tokens=False, verbose=False)["input_ids"]
    test = windows_of(torch.tensor(test_ids), options.context)
    test_batch = mask(test, 0.15, options.vocabulary, torch.Generator().manual_seed(0))
    model = build_model(options).to(device)
    size = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"seed {options.seed}, {size:,} parameters, {len(sources[0]):,} + {len(sources[1]):,} training tokens",
        flush=True,
    )
    print(f"held out: {test.numel():,} tokens, {unigram(sources[0], test_batch):.2%} by the most frequent", flush=True)
    train(model, tokenizer, sources, tuple(each.to(device) for each in test_batch), options)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=25.0, help="wall-clock time of the training (default: 25)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=EMBEDDED, help="folder for the model and the tokenizer")
    parser.add_argument("--save-every", type=float, default=4.0, metavar="MINUTES", help="default: 4")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--vocabulary", type=int, default=2560)
    parser.add_argument("--context", type=int, default=128, help="tokens")
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1.2e-3, help="highest learning rate")
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
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # Words carry the space before them, and so does a mask: "of [MASK]." stands for "of" and " something.".
    special = [AddedToken(text, special=True, normalized=False, lstrip=text == "[MASK]") for text in SPECIAL]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(("\n\n" + text for text in texts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token=special[MASK],
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


def token_stream(tokenizer: PreTrainedTokenizerFast, texts: list[str], *, seed: int) -> Tensor:
    """One stream of token ids: runs of one to twelve neighbouring paragraphs, shuffled, blank lines between."""
    generator = torch.Generator().manual_seed(seed)
    documents, start = [], 0
    while start < len(texts):
        length = int(torch.randint(1, 13, (), generator=generator))
        documents.append("\n\n".join(texts[start : start + length]) + "\n\n")
        start += length
    order = torch.randperm(len(documents), generator=generator).tolist()
    ids = tokenizer([documents[index] for index in order], add_special_tokens=False, verbose=False)["input_ids"]
    return torch.tensor(list(itertools.chain.from_iterable(ids)))


def windows_of(ids: Tensor, context: int) -> Tensor:
    """[n, t]: the text once, in windows between [CLS] and [SEP]; a rest that fills no window is left out."""
    body = ids[: len(ids) // (context - 2) * (context - 2)].view(-1, context - 2)
    edge = torch.ones(len(body), 1, dtype=torch.int64, device=ids.device)
    return torch.cat([CLS * edge, body, SEP * edge], dim=1)


def mask(
    windows: Tensor, rate: float | Tensor, vocabulary: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs [b, t], which places are to be predicted, bool [b, t], and the windows as they were.

    rate: of the places to predict, a number or [b, 1]; of those 80 % are masked, 10 % random, 10 % left as they are.
    """
    own = windows.cpu()
    chosen = (torch.rand(own.shape, generator=generator) < rate) & (own >= len(SPECIAL))
    fate = torch.rand(own.shape, generator=generator)
    other = torch.randint(len(SPECIAL), vocabulary, own.shape, generator=generator)
    inputs = torch.where(chosen & (fate < 0.8), MASK, own)
    inputs = torch.where(chosen & (fate >= 0.9), other, inputs)
    return inputs.to(windows.device), chosen.to(windows.device), windows


def unigram(training: Tensor, batch: tuple[Tensor, Tensor, Tensor]) -> float:
    """Accuracy of always saying the training text's most frequent token."""
    _, chosen, windows = batch
    most = int(training.bincount().argmax())
    return (windows[chosen] == most).float().mean().item()


def build_model(options: argparse.Namespace) -> BertForMaskedLM:
    config = BertConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        intermediate_size=4 * options.width,
        hidden_act="gelu_pytorch_tanh",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=options.context,
        initializer_range=0.05,
        pad_token_id=PAD,
    )
    model = BertForMaskedLM(config)
    place_positions(model)
    return model


@torch.no_grad()
def place_positions(model: BertForMaskedLM) -> None:
    """Positions as sinusoids, and heads of the first layer that look at a neighbour, one offset each.

    A sinusoid at p + offset is a rotation of the one at p, so a query that rotates and a key that does not have their
    largest product at that offset. Training moves all of it as it likes.
    """
    config = model.config
    width, heads = config.hidden_size, config.num_attention_heads
    rates = torch.exp(-math.log(1e4) * torch.arange(0, width, 2) / width)
    angles = torch.arange(config.max_position_embeddings)[:, None] * rates
    table = torch.cat([angles.sin(), angles.cos()], dim=1)
    model.bert.embeddings.position_embeddings.weight.copy_(table * 2 * config.initializer_range)
    first = model.bert.encoder.layer[0].attention.self
    pairs = width // heads // 2
    sines, cosines = torch.arange(pairs), torch.arange(pairs) + width // 2  # of the fastest rates
    words = model.bert.embeddings.word_embeddings.weight
    words[:, torch.cat([sines, cosines])] = 0.0  # where the words would only be noise
    for head in range(heads):
        offset = (head // 2 + 1) * (1 if head % 2 else -1)
        turn = rates[:pairs] * offset
        rows = torch.arange(pairs) + head * 2 * pairs
        query, key = first.query.weight, first.key.weight
        key[rows, sines] += SHARPNESS
        key[rows + pairs, cosines] += SHARPNESS
        query[rows, sines] += SHARPNESS * turn.cos()
        query[rows, cosines] += SHARPNESS * turn.sin()
        query[rows + pairs, cosines] += SHARPNESS * turn.cos()
        query[rows + pairs, sines] -= SHARPNESS * turn.sin()


def train(
    model: BertForMaskedLM,
    tokenizer: PreTrainedTokenizerFast,
    sources: list[Tensor],
    test: tuple[Tensor, Tensor, Tensor],
    options: argparse.Namespace,
) -> None:
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.98), fused=True)
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
        batch = draw(sources, progress, options, generator)
        loss = functional.cross_entropy(predict(model, batch, bf16), batch[2][batch[1]])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tokens += batch[0].numel()
        recent.append(loss.detach())
        if now - shown > 30:
            mean = torch.stack(recent).mean().item()
            print(
                f"{(now - begun) / 60:5.1f} min  step {step}  loss {mean:.3f}  {tokens / (now - begun):,.0f} tokens/s",
                flush=True,
            )
            shown, recent = now, []
        if now - saved > 60 * options.save_every:
            report(model, tokenizer, test)
            save(model, tokenizer, options.out)
            saved = time.monotonic()
    print(f"{step - 1} steps, {tokens:,} tokens in {(time.monotonic() - begun) / 60:.1f} minutes", flush=True)
    report(model, tokenizer, test)
    save(model, tokenizer, options.out)


def learning_rate(progress: float, step: int) -> float:
    """Linear warm-up over 300 steps, then half a cosine over the time down to 2 %, as a factor of the highest rate."""
    return min(step / 300, 1.0) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def draw(
    sources: list[Tensor], progress: float, options: argparse.Namespace, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Masked windows [b, t] at random places: breadth first, then more and more of the text the model is judged by.

    The rate of masking falls from 30 to 20 %, but for the share ANY_RATE of the windows.
    """
    bodies = []
    for _ in range(options.batch_size):
        source = sources[0 if float(torch.rand((), generator=generator)) < 0.2 + 0.5 * progress else 1]
        start = int(torch.randint(len(source) - options.context, (), generator=generator))
        bodies.append(source[start : start + options.context - 2])
    windows = windows_of(torch.cat(bodies), options.context)
    any_rate, rates = torch.rand(2, options.batch_size, 1, generator=generator)
    rates = torch.where(any_rate < ANY_RATE, rates, 0.3 - 0.1 * progress)
    return mask(windows, rates, options.vocabulary, generator)


def predict(model: BertForMaskedLM, batch: tuple[Tensor, Tensor, Tensor], bf16: bool) -> Tensor:
    """Logits [m, v] of the places that are to be predicted."""
    inputs, chosen, _ = batch
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=bf16):
        states = model.bert(input_ids=inputs).last_hidden_state  # b t d
        return model.cls(states[chosen]).float()


def bf16_is_faster(model: BertForMaskedLM, source: Tensor, options: argparse.Namespace) -> bool:
    seconds = {}
    for bf16 in (False, True):
        for _ in range(4):  # the last one counts: the first ones warm up
            batch = draw([source, source], 0.0, options, torch.Generator().manual_seed(0))
            start = time.monotonic()
            predict(model, batch, bf16).sum().backward()
            seconds[bf16] = time.monotonic() - start
        model.zero_grad()
    return seconds[True] < seconds[False]


@torch.no_grad()
def report(model: BertForMaskedLM, tokenizer: PreTrainedTokenizerFast, test: tuple[Tensor, Tensor, Tensor]) -> None:
    """Prints held-out figures and a few filled masks."""
    model.eval()
    right, total, count = 0, 0.0, 0
    for inputs, chosen, windows in zip(*(each.split(64) for each in test), strict=True):
        logits, wanted = predict(model, (inputs, chosen, windows), False), windows[chosen]
        right += int((logits.argmax(-1) == wanted).sum())
        total += functional.cross_entropy(logits, wanted, reduction="sum").item()
        count += len(wanted)
    print(f"held out: accuracy {right / count:.4f}, perplexity {math.exp(total / count):.2f}", flush=True)
    text = "Return the [MASK] of the file, or None if it [MASK] not exist. Raises [MASK] if the [MASK] is negative."
    inputs = tokenizer(text, return_tensors="pt")["input_ids"].to(test[0].device)
    filled = torch.where(inputs == MASK, model(input_ids=inputs).logits.argmax(-1), inputs)
    print(tokenizer.decode(filled[0], skip_special_tokens=True), flush=True)
    model.train()


def save(model: BertForMaskedLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes the model in float16 and the tokenizer; each file is replaced whole: a reader never sees half of one."""
    half = BertForMaskedLM(model.config)
    half.load_state_dict(model.state_dict())
    with staged_folder(folder) as staged:
        half.half().save_pretrained(staged)
        tokenizer.save_pretrained(staged)
        weights = staged / "model.safetensors"
        sums = f"{hashlib.sha256(weights.read_bytes()).hexdigest()}  {weights.name}\n"
        (staged / "SHA256SUMS").write_text(sums, encoding="utf-8")
        for file in staged.iterdir():  # safetensors makes files that only their owner may read
            file.chmod(0o644)


if __name__ == "__main__":
    main()
