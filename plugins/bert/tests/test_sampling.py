"""Masks filled one by one, by Gibbs sampling and by mask-predict."""

from __future__ import annotations

import pytest
import torch

import zoo
from zoo.plugin.draws import Draws
from zoo_bert import masks

TEXT = "the [MASK] of a file is [MASK] , returns [MASK]"


@pytest.fixture
def model(make) -> zoo.Model:
    return zoo.load(str(make("bert")), device="cpu")


@pytest.mark.parametrize("mode", ["fill", "gibbs", "mask-predict"])
@pytest.mark.parametrize("text", [None, TEXT])
def test_equal_seeds_give_equal_texts(model: zoo.Model, mode: str, text: str | None) -> None:
    before = torch.get_rng_state()
    first, again, other = (model.sample(2, seed=seed, text=text, mode=mode) for seed in (5, 5, 6))
    assert first.data == again.data != other.data
    assert first.data[0] != first.data[1]
    assert model.sample(seed=None, mode=mode).data != model.sample(seed=None, mode=mode).data
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("mode", ["fill", "gibbs", "mask-predict"])
def test_only_masks_are_filled_and_all_of_them(model: zoo.Model, mode: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model.entry.folder)
    start = torch.tensor(tokenizer(TEXT)["input_ids"])
    drawn: list[torch.Tensor] = []
    module = model.module.forward

    def forward(input_ids, **options):
        drawn.append(input_ids.clone())
        return module(input_ids=input_ids, **options)

    model.module.forward = forward
    for text in model.sample(3, seed=0, text=TEXT, mode=mode, top_k=5):
        assert "[MASK]" not in text
        assert text.startswith("the")
    kept = start != 4
    assert all(torch.equal(ids[:, kept], start[kept].expand(len(ids), -1)) for ids in drawn)
    steps = {"fill": 3, "gibbs": 30, "mask-predict": 10}
    assert len(drawn) == steps[mode]


def test_a_single_mask_is_drawn_from_the_models_own_distribution(model: zoo.Model) -> None:
    """4,000 draws against softmax(logits / temperature) of ordinary tokens, by chi-squared."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model.entry.folder)
    ids = torch.tensor(tokenizer("the [MASK] of text")["input_ids"])
    place = int((ids == 4).nonzero())
    logits = model.module(input_ids=ids[None]).logits[0, place].detach()
    ordinary = torch.arange(5, len(tokenizer))
    for options, kept in (({}, ordinary), ({"temperature": 0.5, "top_k": 4}, ordinary[logits[ordinary].topk(4)[1]])):
        shares = (logits[kept] / options.get("temperature", 1.0)).softmax(-1)
        sampler = masks.Sampler(
            model,
            masks.vocabulary_of(model, tokenizer),
            Draws(4000, [torch.Generator().manual_seed(0)]),
            options.get("temperature", 1.0),
            options.get("top_k", 0),
        )
        with torch.no_grad():
            filled, _ = masks.fill(sampler, ids.expand(4000, -1), torch.tensor([place]))
        counts = filled[:, place].bincount(minlength=120).float()
        assert counts.sum() == counts[kept].sum() == 4000
        expected = 4000 * shares
        chi = ((counts[kept] - expected) ** 2 / expected).sum()
        assert chi < len(kept) + 5 * (2 * len(kept)) ** 0.5


def test_gibbs_has_the_models_joint_as_its_limit(model: zoo.Model) -> None:
    """A module of two tokens that always agree: from any start both places come to agree, half of the time on each."""

    class Agreeing(torch.nn.Module):
        config = model.module.config

        def forward(self, input_ids, attention_mask=None):
            logits = torch.full((*input_ids.shape, 120), -20.0)
            for row, ids in enumerate(input_ids):
                for place in (1, 2):
                    other = int(ids[3 - place])
                    for token in (5, 6):
                        logits[row, place, token] = 5.0 if token == other else 0.0
            return type("Output", (), {"logits": logits})

    model.adapter_set.module = Agreeing()
    vocabulary = masks.Vocabulary(4, 0, torch.arange(5, 60), [2], [3])
    sampler = masks.Sampler(model, vocabulary, Draws(300, [torch.Generator().manual_seed(0)]), 1.0, 0)
    ids = masks.gibbs(sampler, torch.tensor([[2, 4, 4, 3]] * 300), torch.tensor([1, 2]), 6)
    assert (ids[:, 1] == ids[:, 2]).float().mean() > 0.95
    assert abs((ids[:, 1] == 5).float().mean() - 0.5) < 0.12


def test_temperature_zero_is_the_likeliest(model: zoo.Model) -> None:
    options = {"text": "the [MASK] of text", "temperature": 0.0}
    first, other = (model.sample(seed=seed, **options) for seed in (0, 1))
    assert first.data == other.data
    assert first.captions == other.captions
    assert first.captions[0].endswith("%")


def test_several_texts_and_the_tokenizers_own_mask(make) -> None:
    model = zoo.load(str(make("roberta")), device="cpu")
    samples = model.sample(2, seed=0, texts=["a [MASK] text", "the file [MASK]"], mode="gibbs", steps=2)
    assert len(samples) == 4
    assert samples.captions == ["a [MASK] text"] * 2 + ["the file [MASK]"] * 2


def test_length_is_the_number_of_masks(model: zoo.Model) -> None:
    lengths = []
    forward = model.module.forward

    def watched(input_ids, **options):
        lengths.append(int((input_ids == 4).sum()))
        return forward(input_ids=input_ids, **options)

    model.module.forward = watched
    model.sample(seed=0, length=7, mode="mask-predict", steps=3)
    assert lengths == [7, 4, 2]
    lengths.clear()
    model.sample(seed=0, length=3)
    assert lengths == [3, 2, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": "nothing to fill"}, r"expected \[MASK\] in the text"),
        ({"texts": []}, "list of strings"),
        ({"text": "a [MASK]", "texts": ["a [MASK]"]}, "got both"),
        ({"text": "a [MASK]", "length": 4}, "got both"),
        ({"text": "a [MASK] " * 30}, "at most 40"),
        ({"length": 39}, "at most 40"),
        ({"length": 0}, "from 1"),
        ({"mode": "beam"}, "'fill', 'gibbs', 'mask-predict'"),
        ({"steps": 3}, "fills every mask once"),
        ({"mode": "gibbs", "steps": 0}, "from 1"),
        ({"temperature": -1.0}, "from 0"),
        ({"top_k": -1}, "from 0"),
        ({"txet": "misspelt"}, "Did you mean 'text'"),
    ],
)
def test_options_that_cannot_be(model: zoo.Model, options: dict, message: str) -> None:
    with pytest.raises(zoo.ZooError, match=message) as caught:
        model.sample(**options)
    assert "\n" not in str(caught.value)
