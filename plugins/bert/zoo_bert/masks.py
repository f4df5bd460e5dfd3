"""Sample: fill the masks of a text, or of a text of nothing but masks, in one of three ways."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo import Samples, ZooError
from zoo.data.text import given_texts
from zoo.integrations.tokens import encoded

from .model import check_vocabulary, context_of, tokenizer_of
from .text import Vocabulary, vocabulary_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from zoo import Model, SampleRequest
    from zoo.plugin.draws import Draws

# Notation of the shapes: n texts at once, t tokens of each, k masked places, v tokens in the vocabulary.
MASK = "[MASK]"  # in users' texts, whatever the tokenizer calls its own
LENGTH = 24  # tokens of a free text
STEPS = 10


@dataclass
class Sampler:
    """Draws tokens from the model's logits, all on its device; random numbers come from the CPU, equal on every device.

    Nothing that is drawn comes back to the CPU, so that the loops below never wait for a GPU.
    """

    model: Model
    vocabulary: Vocabulary
    draws: Draws
    temperature: float
    top_k: int
    possible: Tensor | None = None

    def draw(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return a token for each place of `logits` [n times as many places, v], and p(token | rest) of each."""
        shares = logits.softmax(-1)
        if self.temperature == 0:
            tokens = logits.argmax(-1)
        else:
            if 0 < self.top_k < len(self.vocabulary.ordinary):
                lowest = logits.topk(self.top_k).values[:, -1:]  # [places, 1]
                logits = logits.masked_fill(logits < lowest, -math.inf)
            tempered = (logits / self.temperature).softmax(-1)  # [places, v]
            # As torch.multinomial draws on the CPU, whose generator no other device takes.
            waits = self.draws.exponential((self.draws.n, len(tempered) // self.draws.n, tempered.shape[1]))
            tokens = (tempered / waits.flatten(0, 1).to(tempered.device)).argmax(-1)  # [places]
        return tokens, shares.gather(1, tokens[:, None])[:, 0]

    def logits(self, ids: Tensor) -> Tensor:
        """Return logits [n, t, v]; special tokens and rows without a token have probability 0."""
        # Without a mask: transformers would look whether it is all ones, and wait for a GPU at each step.
        logits = self.model.module(input_ids=ids).logits.float()
        if self.possible is None:
            possible = torch.full((logits.shape[-1],), -math.inf)
            possible[self.vocabulary.ordinary] = 0.0
            self.possible = possible.to(logits.device)
        return logits + self.possible


def sample(model: Model, request: SampleRequest) -> Samples:
    """Return texts: `request.n` for every text given, whose masks are filled, or free ones of `length` tokens.

    Captions of mode "fill" name the fillings and their probabilities. Equal seeds give equal texts.

    Args:
        model: the model.
        request: its options are `text` or `texts` (with [MASK] wherever a token is wanted) or `length`; `mode` "fill":
            each mask is filled once, from p(x_i | rest), the most certain place first; "gibbs" (arXiv 1902.04094): all
            of them again and again in random order, `steps` times; "mask-predict" (arXiv 1904.09324): all at once, then
            in `steps` rounds the least certain ones again; `temperature` (0: the likeliest token), `top_k` (0: off).

    Raises:
        ZooError: a text has no mask or is longer than the model's context, or a value is out of range.
    """
    options = request.take()
    texts = given_texts(options, "text", "texts")
    _check_ranges(options, texts)
    tokenizer = tokenizer_of(model)
    vocabulary = vocabulary_of(model, tokenizer)
    sampler = Sampler(model, vocabulary, request.draws(), options["temperature"], options["top_k"])
    found: list[str] = []
    captions: list[str] = []
    for text in [None] if texts is None else texts:
        row = _start(model, tokenizer, vocabulary, text, options["length"])
        ids = torch.tensor([row] * request.n)  # [n, t]
        free = (ids[0] == vocabulary.mask).nonzero()[:, 0]  # k
        ids, free = ids.to(model.device), free.to(model.device)
        if options["mode"] == "fill":
            ids, shares = (one.cpu() for one in fill(sampler, ids, free))
            free = free.cpu()
            captions += [_fillings(tokenizer, ids[i, free].tolist(), shares[i].tolist()) for i in range(request.n)]
        else:
            method = gibbs if options["mode"] == "gibbs" else mask_predict
            ids = method(sampler, ids, free, STEPS if options["steps"] is None else options["steps"])
            captions += [str(text)] * request.n
        found += [text.strip() for text in tokenizer.batch_decode(ids.cpu(), skip_special_tokens=True)]
    captioned = texts is not None and (options["mode"] == "fill" or len(texts) > 1)
    return Samples(found, "text", captions if captioned else None)


def fill(sampler: Sampler, ids: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """Return ids [n, t] with the masks at `free` [k] filled, the most certain first, and the shares [n, k] drawn."""
    ids = ids.clone()
    everyone = torch.arange(len(ids), device=ids.device)
    waiting = torch.ones(len(ids), len(free), dtype=torch.bool, device=ids.device)
    shares = torch.zeros(len(ids), len(free), device=ids.device)
    for _ in range(len(free)):
        logits = sampler.logits(ids)[:, free]  # [n, k, v]
        choice = logits.softmax(-1).amax(-1).masked_fill(~waiting, -1.0).argmax(1)
        tokens, drawn = sampler.draw(logits[everyone, choice])
        ids[everyone, free[choice]] = tokens
        shares[everyone, choice] = drawn
        waiting[everyone, choice] = False
    return ids, shares


def gibbs(sampler: Sampler, ids: Tensor, free: Tensor, steps: int) -> Tensor:
    """Draw each place of `free` [k] of ids [n, t] anew, given all others, in `steps` sweeps, each in its own order."""
    ids = ids.clone()
    everyone = torch.arange(len(ids), device=ids.device)
    for _ in range(steps):
        orders = sampler.draws.permutation(len(free))  # [n, k]
        for places in free[orders.to(ids.device)].unbind(1):
            ids[everyone, places] = sampler.vocabulary.mask
            ids[everyone, places] = sampler.draw(sampler.logits(ids)[everyone, places])[0]
    return ids


def mask_predict(sampler: Sampler, ids: Tensor, free: Tensor, steps: int) -> Tensor:
    """Draw all places of `free` [k] of ids [n, t] at once, then in `steps` - 1 rounds the least certain."""
    ids = ids.clone()
    shares = torch.zeros(len(ids), len(free), device=ids.device)
    for step in range(steps):
        count = max(1, len(free) * (steps - step) // steps)
        choice = shares.argsort(1)[:, :count]  # [n, count]
        rows = torch.arange(len(ids), device=ids.device)[:, None].expand_as(choice)
        ids[rows, free[choice]] = sampler.vocabulary.mask
        tokens, drawn = sampler.draw(sampler.logits(ids)[rows, free[choice]].flatten(0, 1))
        ids[rows, free[choice]] = tokens.view_as(choice)
        shares[rows, choice] = drawn.view_as(choice)
    return ids


def _check_ranges(options: dict[str, Any], texts: list[str] | None) -> None:
    if options["steps"] is not None and options["mode"] == "fill":
        raise ZooError("steps: mode 'fill' has none, it fills every mask once; set mode='gibbs' or 'mask-predict'")
    if options["length"] is not None and texts is not None:
        raise ZooError("expected text or length, got both: a text is as long as it is, with its masks")


def _start(
    model: Model, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary, text: str | None, length: int | None
) -> list[int]:
    """Return the token ids to start from, masks among them."""
    if text is None:
        ids = vocabulary.before + [vocabulary.mask] * (length or LENGTH) + vocabulary.after
    else:
        ids = encoded(tokenizer, text.replace(MASK, str(tokenizer.mask_token)), verbose=False)["input_ids"]
        if vocabulary.mask not in ids:
            raise ZooError(f"expected {MASK} in the text wherever a token is wanted, got {text!r}")
    check_vocabulary(model, max(ids))
    if len(ids) > context_of(model):
        raise ZooError(
            f"the text has {len(ids)} tokens, the special ones included: expected at most {context_of(model)}, "
            "the model's context; shorten it"
        )
    return ids


def _fillings(tokenizer: PreTrainedTokenizerBase, tokens: list[int], shares: list[float]) -> str:
    named = zip(tokens, shares, strict=True)
    return ", ".join(f"{tokenizer.decode([token]).strip()} {share:.0%}" for token, share in named)
