"""Texts from prompts, from nothing, or in answer to messages."""

from __future__ import annotations

import secrets
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from zoo import Samples, ZooError
from zoo.data.conversations import as_messages
from zoo.data.text import given_texts
from zoo.integrations.chat import question_tokens
from zoo.integrations.tokens import end_tokens, filler, prompt_tokens
from zoo.integrations.transformers import check_vocabulary, tokenizer_of
from zoo.torch_state.modes import seeded

from .model import context_of
from .options import NEW_TOKENS, usual
from .seeds import OwnSeeds

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from zoo import Model, SampleRequest

# Notation of the shapes: b prompts in a batch, t tokens.


def sample(model: Model, request: SampleRequest) -> Samples:
    """Return texts: `request.n` for every prompt or conversation, or from nothing if there is neither.

    A text ends where the model says so, at the latest after `max_new_tokens`. Of a conversation it is the answer alone.
    Equal seeds give equal texts; the global random state is left as it was.

    Args:
        model: the model.
        request: its options are `prompts` or `prompt` (a string, or a list), or `messages` (a conversation as a list
            of {"role", "content"}, a list of them, or what the user says as a string), `max_new_tokens`, and those of
            transformers' generate: `do_sample`, `temperature`, `top_k` (0: off), `top_p`, `num_beams`,
            `repetition_penalty`, `no_repeat_ngram_size`. What is not given is taken from the checkpoint's
            generation_config.json, then from `zoo_gpt.options.DEFAULTS`.

    Raises:
        ZooError: a prompt is empty, a value is out of range, or the tokens are more than the model's context.
    """
    tokenizer, own = tokenizer_of(model.entry), model.module.generation_config
    starts, limits, answers, captions, options = asked(model, request)
    texts = []
    with _drawing(model, request):
        for ids, limit in zip(starts, limits, strict=True):
            inputs = torch.tensor([ids] * request.n, device=model.device)  # [b, t]
            output = model.module.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                max_new_tokens=limit,
                **_generation(options, tokenizer, own),
            )
            said = output[:, len(ids) :] if answers else output
            found = tokenizer.batch_decode(said, skip_special_tokens=True)
            texts += [text.strip() for text in found] if answers else found
    return Samples(texts, "text", captions)


def _drawing(model: Model, request: SampleRequest) -> AbstractContextManager[object]:
    """Return a block in which tokens are drawn from the request's seed, or for each text from its own."""
    if request.seeds is not None and len(request.seeds) > 1:
        return OwnSeeds([torch.Generator(model.device).manual_seed(seed % 2**64) for seed in request.seeds])
    return seeded(secrets.randbits(63) if request.seed is None else request.seed % 2**64)


class Asked(NamedTuple):
    """What a request asks for.

    Attributes:
        starts: the tokens of each prompt or conversation, of which `request.n` texts are wanted.
        limits: how many tokens may follow each.
        answers: whether the texts are what follows alone, without white space around it.
        captions: of the samples, if there are several prompts.
        options: the values of all options.
    """

    starts: list[list[int]]
    limits: list[int]
    answers: bool
    captions: list[str] | None
    options: dict[str, Any]


def asked(model: Model, request: SampleRequest) -> Asked:
    """Return what a request asks for.

    Raises:
        ZooError: it cannot be.
    """
    own = model.module.generation_config
    options = request.take(**usual(lambda name: getattr(own, name, None)))
    prompts = given_texts(options, "prompt", "prompts")
    talks = _conversations(options["messages"])
    if prompts is not None and talks is not None:
        raise ZooError("expected prompts or messages, got both: give one of them")
    tokenizer = tokenizer_of(model.entry)
    if talks is not None:
        starts = [question_tokens(tokenizer, talk) for talk in talks]
        captions = [str(talk[-1]["content"]) for talk in talks]
    else:
        starts = [_start(model, tokenizer, prompt) for prompt in ([None] if prompts is None else prompts)]
        captions = prompts or []
    for ids in starts:
        _check_start(model, ids, options["max_new_tokens"])
    limits = [min(options["max_new_tokens"] or NEW_TOKENS, context_of(model) - len(ids)) for ids in starts]
    shown = [caption for caption in captions for _ in range(request.n)] if len(captions) > 1 else None
    return Asked(starts, limits, talks is not None, shown, options)


def greedy(model: Model, inputs: torch.Tensor, limit: int) -> list[int]:
    """Return the tokens that follow `inputs`, int64 [1, t]: the likeliest each time, until the end or `limit`."""
    tokenizer, own = tokenizer_of(model.entry), model.module.generation_config
    options = {"do_sample": False, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "num_beams": 1}
    options |= {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
    output = model.module.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        max_new_tokens=limit,
        **_generation(options, tokenizer, own),
    )
    found: list[int] = output[0, inputs.shape[1] :].tolist()
    return found


def _conversations(given: Any) -> list[list[dict[str, Any]]] | None:
    """Return the conversations of the option `messages`; None where it is not given."""
    if given is None:
        return None
    several = isinstance(given, list | tuple) and bool(given) and all(isinstance(one, list | tuple) for one in given)
    talks = [as_messages(one) for one in (given if several else [given])]
    for talk in talks:
        if talk[-1]["role"] == "assistant":
            raise ZooError("messages: expected a conversation that ends before an answer, got one that ends with it")
        if not str(talk[-1]["content"]).strip():
            raise ZooError("messages: expected a last message with text, got an empty one")
    return talks


def _start(model: Model, tokenizer: PreTrainedTokenizerBase, prompt: str | None) -> list[int]:
    """Return the token ids that generation continues; for no prompt, the beginning-of-text token."""
    if prompt is not None:
        return prompt_tokens(tokenizer, prompt)
    if tokenizer.bos_token_id is None:
        raise ZooError(f"{model.entry.name}: its tokenizer has no beginning-of-text token to start from; give prompts=")
    return [tokenizer.bos_token_id]


def _check_start(model: Model, ids: list[int], limit: int | None) -> None:
    if not ids:
        raise ZooError(f"{model.entry.name}: its tokenizer makes no token of the prompt: give another one")
    check_vocabulary(model.entry, model.module.config.vocab_size, max(ids))
    context = context_of(model)
    if len(ids) + (limit or 1) > context:
        raise ZooError(
            f"the prompt has {len(ids)} tokens and {limit or 1} more are wanted: expected at most {context} together, "
            "the model's context; shorten the prompt or lower max_new_tokens"
        )


def ends(tokenizer: PreTrainedTokenizerBase, own: Any) -> list[int] | None:
    """Return the tokens that end a text: those of the checkpoint's generation_config.json and the tokenizer's."""
    stored = getattr(own, "eos_token_id", None)
    stored = [stored] if isinstance(stored, int) else list(stored or [])
    return sorted({*stored, *end_tokens(tokenizer)}) or None


def _generation(options: dict[str, Any], tokenizer: PreTrainedTokenizerBase, own: Any) -> dict[str, Any]:
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
        "pad_token_id": filler(tokenizer),
        "eos_token_id": ends(tokenizer, own),
        "use_cache": True,
    }
