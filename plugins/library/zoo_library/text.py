"""Text in, text out: what a class of transformers generates from prompts, and pairs of texts to train it on."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch

from zoo import Samples, ZooError
from zoo.data.columns import find_columns
from zoo.data.text import given_texts
from zoo.integrations.auto_classes import is_for, sees_later_tokens
from zoo.integrations.transformers import check_vocabulary, tokenizer_of
from zoo.torch_state.modes import seeded

from .options import NEW_TOKENS

if TYPE_CHECKING:
    from torch import Tensor

    from zoo import Model, SampleRequest
    from zoo.data.spec import Data

LONGEST = 512  # tokens of a text that are used, if the model does not take fewer
_IGNORED = -100  # label of a token that is padding
_LIMITS = ("max_position_embeddings", "max_target_positions", "max_decoder_position_embeddings", "max_seq_len")


def reads_text(model: Model) -> bool:
    """Return whether the model is an encoder-decoder of text in, text out."""
    module: Any = model.module
    config = getattr(module, "config", None)
    kind = {"architectures": [type(module).__name__], "model_type": getattr(config, "model_type", None)}
    reads = getattr(module, "main_input_name", "") == "input_ids"
    return reads and bool(getattr(config, "is_encoder_decoder", False)) and is_for(kind, "SEQ_TO_SEQ_CAUSAL_LM")


def encoded(
    model: Model, columns: Mapping[str, Sequence[str]], given: Data
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return "input_ids", "attention_mask" and "labels" int64 [n, t] of pairs of texts, and facts for their report.

    Raises:
        DataError: there is no column of prompts or of completions.
        CheckpointError: the model has no tokenizer, or another model's.
    """
    names = list(columns)
    found = find_columns(names, ("prompt", "completion"), given=given.columns, origin="the pairs of texts")
    prompts, completions = list(columns[found["prompt"]]), list(columns[found["completion"]])
    tokenizer, limit = tokenizer_of(model.entry), longest(model)
    inputs = tokenizer(prompts, verbose=False)["input_ids"]
    targets = tokenizer(text_target=completions, verbose=False)["input_ids"]
    check_vocabulary(model.entry, _vocabulary(model), max((max(ids, default=0) for ids in inputs + targets), default=0))
    cut = sum(len(ids) > limit for ids in inputs + targets)
    filler = tokenizer.pad_token_id or 0
    tensors = {
        "input_ids": _padded(inputs, limit, filler),
        "attention_mask": _padded([[1] * len(ids) for ids in inputs], limit, 0),
        "labels": _padded(targets, limit, _IGNORED),
    }
    notes = (f"{cut} texts are cut at {limit} tokens",) if cut else ()
    unused = tuple(name for name in names if name not in found.values())
    return tensors, {"columns": found, "unused": unused, "notes": notes}


def longest(model: Model) -> int:
    """Return how many tokens of a text are used."""
    return min(LONGEST, context_of(model))


def context_of(model: Model) -> int:
    """Return the longest text that the model takes, in tokens (2**31 for a model without a limit)."""
    config = model.module.config
    with suppress(ValueError):  # of two texts it has none that is the text's
        config = config.get_text_config()
    limits = [getattr(config, name, None) for name in _LIMITS]
    return min([2**31, *(limit for limit in limits if isinstance(limit, int) and limit > 0)])


def _vocabulary(model: Model) -> int:
    return int(model.module.get_input_embeddings().weight.shape[0])


def _padded(rows: Sequence[Sequence[int]], limit: int, filler: int) -> Tensor:
    """Return rows of numbers, cut at `limit`, as int64 [n, t]; a cut text keeps its last token, its end."""
    kept = [row if len(row) <= limit else [*row[: limit - 1], row[-1]] for row in rows]
    found = torch.full((len(kept), max(map(len, kept), default=0)), filler)
    for index, row in enumerate(kept):
        found[index, : len(row)] = torch.tensor(row)
    return found


def sample(model: Model, request: SampleRequest) -> Samples:
    """Return texts: `request.n` for each prompt, captioned by it. Equal seeds give equal texts.

    Args:
        model: a model of transformers that generates text from text.
        request: its options are `prompt` or `prompts`, `max_new_tokens` (default 100) and transformers' `do_sample`
            (default False: the likeliest), `temperature`, `top_k`, `top_p`, `num_beams`.

    Raises:
        ZooError: the model does not generate text from text, or no prompt is given.
    """
    module: Any = model.module
    _check_generates(model)
    options = request.take()
    prompts = given_texts(options, "prompt", "prompts")
    if prompts is None:
        raise ZooError("expected texts to begin with, got none: give prompt= or prompts=")
    tokenizer = tokenizer_of(model.entry)
    settings = {name: options[name] for name in ("do_sample", "num_beams")}
    if options["do_sample"]:
        settings |= {name: options[name] for name in ("temperature", "top_k", "top_p")}
    seed = secrets.randbits(63) if request.seed is None else request.seed % 2**64
    texts = []
    with seeded(seed):
        for prompt in prompts:
            inputs = torch.tensor([tokenizer(prompt)["input_ids"]] * request.n, device=model.device)
            check_vocabulary(model.entry, _vocabulary(model), int(inputs.max()))
            settings["max_new_tokens"] = _room(model, inputs.shape[1], options["max_new_tokens"])
            output = module.generate(inputs, attention_mask=torch.ones_like(inputs), **settings)
            texts += tokenizer.batch_decode(output, skip_special_tokens=True)
    return Samples(texts, "text", [prompt for prompt in prompts for _ in range(request.n)])


def _room(model: Model, given: int, wanted: int | None) -> int:
    """Return how many tokens to make after `given` ones: as many as are wanted, or NEW_TOKENS at most.

    Raises:
        ZooError: the model takes fewer.
    """
    limit = context_of(model)
    room = limit - 1 - (0 if model.module.config.is_encoder_decoder else given)
    if given > limit or room < (wanted or 1):
        raise ZooError(
            f"the prompt has {given} tokens and {wanted or 1} more are wanted, and {model.entry.name} takes {limit}: "
            "shorten the prompt or lower max_new_tokens"
        )
    return wanted or min(NEW_TOKENS, room)


def _check_generates(model: Model) -> None:
    module: Any = model.module
    name = type(module).__name__
    able = callable(getattr(module, "can_generate", None)) and module.can_generate()
    if not able or getattr(module, "main_input_name", "") != "input_ids":
        raise ZooError(
            f"{model.entry.name}: zoo cannot sample from a {name}, which is taken as its library's class alone: call "
            "model.module, or a pipeline of its library with it"
        )
    why = sees_later_tokens({**module.config.to_dict(), "architectures": [name]})
    if why is not None and not module.config.is_encoder_decoder:
        raise ZooError(f"{model.entry.name}: a {name} cannot continue a text, since {why}: call model.module")
