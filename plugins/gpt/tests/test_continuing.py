"""Continuous batching: texts that come and go in one batch are those of each request alone, for every kind of model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import zoo
from zoo.integrations.transformers import tokenizer_of
from zoo.plugin import hooks
from zoo.plugin.engines import Ended
from zoo.plugin.requests import SampleRequest
from zoo_gpt.pieces import Pieces

from .conftest import Make


def tuned(make: Make, kind: str) -> zoo.Model:
    model = zoo.load(make(kind))
    torch.manual_seed(0)
    for name in "ab":
        model.add_adapter(name, zoo.LoRA(rank=2), active=False)
    for path, parameter in model.module.named_parameters():
        if ".updates." in path:
            parameter.data.normal_(0, 0.3)
    return model


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mixtral", "bloom", "opt"])
def test_texts_in_one_batch_are_those_of_each_alone(make: Make, kind: str) -> None:
    model = tuned(make, kind)
    engine = hooks.engine(model, 8)
    assert engine is not None
    found: dict[int, Any] = {}
    requests = [
        (SampleRequest(1, 1, {"prompt": "abc" * number, "max_new_tokens": 9 - number, "do_sample": number == 2}), name)
        for number, name in ((1, "a"), (2, "b"), (4, None), (3, "a"), (5, "b"))
    ]
    for number, (request, name) in enumerate(requests):
        prepared = engine.prepare(hooks.declared(model, request))
        assert prepared is not None
        engine.admit(number, prepared, name)
        for event in engine.step():
            if isinstance(event, Ended):
                found[event.key] = event
        if number == 3:
            engine.drop(0)
    while len(found) < 4:
        found |= {event.key: event for event in engine.step() if isinstance(event, Ended)}
    assert sorted(found) == [1, 2, 3, 4]
    for number, done in found.items():
        request, name = requests[number]
        model.activate(*[name] if name else [])
        assert done.samples.data == model.sample(1, seed=request.seed, **request.options).data, number


def test_what_has_no_such_cache_is_drawn_as_a_whole(make: Make) -> None:
    assert hooks.engine(zoo.load(make("mamba")), 8) is None
    model = zoo.load(make("llama"))
    engine = hooks.engine(model, 2)
    assert engine is not None
    for n, options in ((1, {"num_beams": 2}), (3, {})):
        assert engine.prepare(hooks.declared(model, SampleRequest(n, 0, options))) is None
    model.module.generation_config.suppress_tokens = [5]  # type: ignore[union-attr]
    assert hooks.engine(model, 8) is None


def test_half_a_character_and_the_beginning_of_a_stop_text_are_held_back(make: Make) -> None:
    tokenizer = tokenizer_of(zoo.load("gpt").entry)
    text = "aé€ 🎈 stop it, STOP"
    ids = tokenizer(text)["input_ids"]
    pieces = Pieces(tokenizer, [], (), False)
    shown = [pieces.add(token) for token in ids]
    assert "".join(shown) + pieces.end() == text
    assert not any("\ufffd" in piece for piece in shown)
    assert "" in shown
    pieces = Pieces(tokenizer, [], ("STOP", "sto!"), True)
    shown = [pieces.add(token) for token in ids]
    assert pieces.stopped
    assert "".join(shown) + pieces.end() == "aé€ 🎈 stop it,"
    assert not any("S" in piece or piece.endswith("st") for piece in shown)


def test_a_streamed_text_is_the_sampled_one(make: Make) -> None:
    model = tuned(make, "llama")
    model.activate("a", "b", weights=(0.5, -1.0))
    for options in ({"prompt": "abcd"}, {"messages": "ab"}, {"num_beams": 2, "do_sample": False}):
        options = {**options, "max_new_tokens": 12}
        assert "".join(model.stream(seed=4, **options)) == model.sample(1, seed=4, **options).data[0]
    with pytest.raises(zoo.ZooError, match="one for 2"):
        model.stream(prompts=["a", "b"])
