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
from zoo_gpt import continuing
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
    found |= done_of(engine)
    assert sorted(found.keys() - {0}) == [1, 2, 3, 4]  # the first one may have ended before it is dropped
    for number, done in found.items():
        request, name = requests[number]
        model.activate(*[name] if name else [])
        assert done.samples.data == model.sample(1, seed=request.seed, **request.options).data, number


def done_of(engine: Any) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for _ in range(99):
        found |= {event.key: event for event in engine.step() if isinstance(event, Ended)}
    return found


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mixtral", "bloom", "opt"])
def test_long_prompts_are_read_in_pieces_beside_the_others(
    make: Make, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(continuing, "READ_BESIDE", 4)
    model = tuned(make, kind)
    engine = hooks.engine(model, 8)
    read: list[tuple[int, ...]] = []  # of each call
    handle = model.module.register_forward_pre_hook(
        lambda module, args, given: read.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    requests = [
        (SampleRequest(1, 1, {"prompt": "ab", "max_new_tokens": 12}), "a"),
        (SampleRequest(2, 2, {"prompt": "abcdefghij" * 2, "max_new_tokens": 3}), "b"),
        (SampleRequest(2, 3, {"prompt": "cd", "max_new_tokens": 3}), None),
    ]
    for number, (request, name) in enumerate(requests):
        engine.admit(number, engine.prepare(hooks.declared(model, request)), name)
        list(engine.step())
    found = done_of(engine)
    handle.remove()
    assert max(count for _, count in read) == 4
    assert sum(count == 4 for _, count in read) == 5, "the long prompt is read once for both samples"
    assert sorted(found) == [0, 1, 2]
    for number, done in found.items():
        request, name = requests[number]
        model.activate(*[name] if name else [])
        assert done.samples.data == model.sample(request.n, seed=request.seed, **request.options).data, number


def test_equal_prompts_are_read_once_and_those_of_other_adapters_by_themselves(make: Make) -> None:
    model = tuned(make, "llama")
    engine = hooks.engine(model, 16)
    for name in "ab":
        engine.admit(name, engine.prepare(hooks.declared(model, SampleRequest(1, 0, {"prompt": "a"}))), name)
    list(engine.step())  # in which it is tried whether both can be one run
    for name in "ab":
        engine.drop(name)
    rows: list[int] = []
    handle = model.module.register_forward_pre_hook(
        lambda module, args, given: rows.append(len(given["input_ids"])), with_kwargs=True
    )
    requests = [(SampleRequest(1 + n % 3, n, {"prompt": "abcabc", "max_new_tokens": 2}), "ab"[n % 2]) for n in range(5)]
    for number, (request, name) in enumerate(requests):
        engine.admit(number, engine.prepare(hooks.declared(model, request)), name)
    list(engine.step())
    handle.remove()
    assert max(rows) == 2  # beside tries of each adapter by itself
    found = done_of(engine)
    for number, (request, name) in enumerate(requests):
        model.activate(name)
        assert found[number].samples.data == model.sample(request.n, seed=request.seed, **request.options).data


def test_a_request_is_dropped_while_its_prompt_is_read(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuing, "READ_AT_ONCE", 4)
    engine = hooks.engine(tuned(make, "llama"), 4)
    for number in range(2):
        request = SampleRequest(1, 1, {"prompt": "abcdefghij", "max_new_tokens": 2})
        engine.admit(number, engine.prepare(hooks.declared(engine._model, request)), None)
    assert not list(engine.step())
    engine.drop(0)
    assert sorted(done_of(engine)) == [1]


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
