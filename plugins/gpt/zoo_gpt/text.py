"""Text in, text out: windows of tokens, the loss, generation and metrics on held-out text."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from zoo import DataError, Samples, ZooError
from zoo.data.stream import stream
from zoo.data.text import beginning, given_texts, text_data
from zoo.integrations.transformers import check_vocabulary, tokenizer_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from zoo import BatchRequest, Model, SampleRequest

# Notation of the shapes: b windows or prompts in a batch, t tokens, v tokens in the vocabulary.
WINDOW = 512  # tokens in a training or evaluation window, if the model's context is not shorter
HELD_OUT = 2**16  # bytes of held-out text that `evaluate` reads at most
LOGITS = 2**27  # how many of them `evaluate` computes at once, at most, if one window has no more
IGNORED = -100  # label of a token that is padding
DEFAULTS = {"do_sample": True, "temperature": 0.8, "top_k": 0, "top_p": 0.95}
NEW_TOKENS = 100


def context_of(model: Model) -> int:
    """Return the longest sequence that the model takes, in tokens (2**31 for a model without a limit)."""
    config = model.module.config
    limits = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions", "max_seq_len"))
    return next((int(limit) for limit in limits if isinstance(limit, int) and limit > 0), 2**31)


def batches(model: Model, data: Any, request: BatchRequest) -> Iterable[dict[str, Tensor]]:
    """Return batches of "input_ids" and "labels" int64 [b, t]: windows of `data`, paragraphs one after another.

    A window begins with the last token of the one before it, so every token is predicted once. Labels are the inputs,
    with IGNORED where the last window is padded.

    Args:
        model: the model.
        data: what `zoo.data.text.text_data` takes, or token ids: a Tensor [n, t] or {"input_ids": Tensor [n, t]}.
        request: batch size, split and seed.

    Raises:
        DataError: the data cannot be used.
    """
    ids = data.get("input_ids") if isinstance(data, dict) else data
    if isinstance(ids, Tensor):
        return stream(_given_windows(model, ids), request)
    tokenizer = tokenizer_of(model.entry)
    ids = _encode(model, tokenizer, "\n\n".join(text_data(data, split=request.split)))
    return stream(_windows(ids, min(WINDOW, context_of(model)), _filler(tokenizer)), request)


def _given_windows(model: Model, ids: Tensor) -> dict[str, Tensor]:
    if ids.ndim != 2 or ids.is_floating_point() or ids.shape[1] < 2 or not len(ids):
        raise DataError(
            f"expected token ids as an integer Tensor [n, t] with t > 1, got {ids.dtype} {tuple(ids.shape)}"
        )
    if ids.shape[1] > context_of(model):
        raise DataError(
            f"expected windows of at most {context_of(model)} tokens, the model's context, got {ids.shape[1]}"
        )
    check_vocabulary(model.entry, model.module.config.vocab_size, int(ids.max()))
    return {"input_ids": ids.long(), "labels": ids.long()}


def _windows(ids: list[int], size: int, filler: int) -> dict[str, Tensor]:
    """Return token ids as windows of `size` that overlap by one token."""
    if len(ids) < 2:
        raise DataError("expected a text of at least two tokens, got fewer: give a longer text")
    size = min(size, len(ids))
    starts = range(0, len(ids) - 1, size - 1)
    inputs = torch.full((len(starts), size), filler)
    labels = torch.full((len(starts), size), IGNORED)
    for row, start in enumerate(starts):
        window = torch.tensor(ids[start : start + size])
        inputs[row, : len(window)] = labels[row, : len(window)] = window
    return {"input_ids": inputs, "labels": labels}


def _encode(model: Model, tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    # verbose=False: a text is longer than the context before it is cut into windows.
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    check_vocabulary(model.entry, model.module.config.vocab_size, max(ids, default=0))
    return ids


def _filler(tokenizer: PreTrainedTokenizerBase) -> int:
    return next((token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None), 0)


def loss(model: Model, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean cross entropy, in nats, of every token but the first of each window given those before it.

    Args:
        model: the model.
        batch: "input_ids" int64 [b, t], and "labels" int64 [b, t] if not the same; what is labelled IGNORED does not
            count.
    """
    total, count = _summed_cross_entropy(model, batch)
    return total / count


def _summed_cross_entropy(model: Model, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    inputs = batch["input_ids"]
    targets = batch.get("labels", inputs)[:, 1:]  # [b, t - 1]
    # Padding is at a window's end, where no token that counts can attend to it: no mask is needed.
    logits = model.module(input_ids=inputs, use_cache=False).logits[:, :-1]  # [b, t - 1, v]
    total = functional.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return total, (targets != IGNORED).sum()


def evaluate(model: Model, data: Any) -> dict[str, float]:
    """Return {"perplexity", "loss", "bits_per_byte"} of held-out text, at most HELD_OUT bytes from its beginning.

    "loss": nats per token. "bits_per_byte": of the text's UTF-8, comparable between tokenizers. Every token is
    predicted once, from those before it in its window; the first from the beginning-of-text token, where the tokenizer
    has one.
    """
    if isinstance(data, Tensor | dict):
        ids = data["input_ids"] if isinstance(data, dict) else data
        tensors, size = _given_windows(model, ids), None
    else:
        tokenizer = tokenizer_of(model.entry)
        text = "\n\n".join(beginning(text_data(data, split="test"), HELD_OUT))
        ids = _encode(model, tokenizer, text)
        size = len(text.encode())
        if tokenizer.bos_token_id is not None:
            ids = [tokenizer.bos_token_id, *ids]
        elif ids:
            size -= len(tokenizer.decode(ids[:1]).encode())
        tensors = _windows(ids, min(WINDOW, context_of(model)), _filler(tokenizer))
    total, count = 0.0, 0
    windows, length = tensors["input_ids"].shape
    rows = min(8, max(1, LOGITS // (length * model.module.config.vocab_size)))
    for start in range(0, windows, rows):
        batch = {name: tensor[start : start + rows].to(model.device) for name, tensor in tensors.items()}
        part, tokens = _summed_cross_entropy(model, batch)
        total, count = total + float(part), count + int(tokens)
    loss = total / count
    metrics = {"perplexity": math.exp(min(loss, 700.0)), "loss": loss}
    return metrics if not size else {**metrics, "bits_per_byte": total / math.log(2) / size}


def sample(model: Model, request: SampleRequest) -> Samples:
    """Return texts: `request.n` for every prompt, or from nothing if there are no prompts.

    Equal seeds give equal texts; the global random state is left as it was.

    Args:
        model: the model.
        request: its options are `prompts` or `prompt` (a string, or a list), `max_new_tokens`, and those of
            transformers' generate: `do_sample`, `temperature`, `top_k` (0: off), `top_p`, `num_beams`,
            `repetition_penalty`, `no_repeat_ngram_size`. What is not given is taken from the checkpoint's
            generation_config.json, then from DEFAULTS.

    Raises:
        ZooError: a prompt is empty, a value is out of range, or the tokens are more than the model's context.
    """
    own = model.module.generation_config
    defaults = {name: type(value)(getattr(own, name, None) or value) for name, value in DEFAULTS.items()}
    options = request.take(
        prompt=None,
        prompts=None,
        max_new_tokens=None,
        **defaults,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
    )
    prompts = given_texts(options, "prompt", "prompts")
    _check_ranges(options)
    tokenizer = tokenizer_of(model.entry)
    starts = [
        _start(model, tokenizer, prompt, options["max_new_tokens"])
        for prompt in ([None] if prompts is None else prompts)
    ]
    seed = secrets.randbits(63) if request.seed is None else request.seed % 2**64
    texts = []
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if model.device.type == "cuda" else ()):
        torch.manual_seed(seed)
        for ids in starts:
            limit = min(options["max_new_tokens"] or NEW_TOKENS, context_of(model) - len(ids))
            inputs = torch.tensor([ids] * request.n, device=model.device)  # [b, t]
            output = model.module.generate(
                inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=limit, **_generation(options, tokenizer)
            )
            texts += tokenizer.batch_decode(output, skip_special_tokens=True)
    several = prompts is not None and len(prompts) > 1
    return Samples(texts, "text", [prompt for prompt in prompts for _ in range(request.n)] if several else None)


def _check_ranges(options: dict[str, Any]) -> None:
    limit = options["max_new_tokens"]
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool)):
        raise ZooError(f"max_new_tokens: expected a whole number, got {limit!r}")
    ranges = {
        "max_new_tokens": ("at least 1", limit is None or limit >= 1),
        "temperature": ("above 0 (do_sample=False picks the likeliest token)", options["temperature"] > 0),
        "top_k": ("at least 0 (0: off)", options["top_k"] >= 0),
        "top_p": ("above 0 and at most 1", 0 < options["top_p"] <= 1),
        "num_beams": ("at least 1", options["num_beams"] >= 1),
        "repetition_penalty": ("above 0", options["repetition_penalty"] > 0),
        "no_repeat_ngram_size": ("at least 0 (0: off)", options["no_repeat_ngram_size"] >= 0),
    }
    for name, (expected, holds) in ranges.items():
        if not holds:
            raise ZooError(f"{name}: expected a value {expected}, got {options[name]!r}")


def _start(model: Model, tokenizer: PreTrainedTokenizerBase, prompt: str | None, limit: int | None) -> list[int]:
    """Return the token ids that generation continues; for no prompt, the beginning-of-text token."""
    if prompt is None:
        if tokenizer.bos_token_id is None:
            raise ZooError(
                f"{model.entry.name}: its tokenizer has no beginning-of-text token to start from; give prompts="
            )
        ids = [tokenizer.bos_token_id]
    else:
        ids = tokenizer(prompt, verbose=False)["input_ids"]
    check_vocabulary(model.entry, model.module.config.vocab_size, max(ids))
    context = context_of(model)
    if len(ids) + (limit or 1) > context:
        raise ZooError(
            f"the prompt has {len(ids)} tokens and {limit or 1} more are wanted: expected at most {context} together, "
            "the model's context; shorten the prompt or lower max_new_tokens"
        )
    return ids


def _generation(options: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return arguments of transformers' generate; sampling settings are None if nothing is sampled."""
    sampled = options["do_sample"]
    return {
        "do_sample": sampled,
        "temperature": options["temperature"] if sampled else None,
        "top_k": options["top_k"] if sampled else None,
        "top_p": options["top_p"] if sampled else None,
        "num_beams": options["num_beams"],
        "repetition_penalty": options["repetition_penalty"],
        "no_repeat_ngram_size": options["no_repeat_ngram_size"],
        "pad_token_id": _filler(tokenizer),
        "use_cache": True,
    }
