"""The plugin's promises, and what is special about an LSTM: flat weights, and a state that goes on."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

import zoo
from zoo.testing import conformance

# Licences: reading all of the standard library takes longer than everything else here.
test_promise = conformance("lstm", data="text:licences")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def tuned():
    """4 bit, LoRA on everything, a few steps on other text than it was trained on."""
    model = zoo.load("lstm", bits=4, lora=zoo.LoRA(rank=4, targets="all"), device="cpu", seed=0)
    before = model.evaluate("text:licences")["bits_per_byte"]
    model.tune("text:licences", steps=8, batch_size=8, lr=1e-2, quiet=True)
    return model, before


def test_at_real_size_everything_is_quantized_and_adapted():
    model = zoo.load("lstm-1840", bits=4, lora=zoo.LoRA(rank=8, targets="all"), device="meta")
    footprint = model.footprint()
    wide = [info for info in model.weights() if len(info.shape) >= 2]
    adapted = sum(math.prod(info.shape) for info in wide if info.adapters)
    assert footprint.parameters > 70_000_000
    assert footprint.quantized_share > 0.985
    assert footprint.bytes < 0.28 * footprint.bytes_16bit
    assert adapted >= 0.99 * sum(math.prod(info.shape) for info in wide)
    assert all(4 < info.bits < 8.2 for info in wide)  # scales counted; the smallest are in 8 bit


def test_every_factor_learns_in_four_bit_and_the_loss_falls(tuned):
    model, before = tuned
    assert model.evaluate("text:licences")["bits_per_byte"] < before
    factors = dict(model.trainable_parameters())
    assert len(factors) == 2 * 6  # embedding, two layers of two weights, head
    assert all(float(factor.detach().abs().max()) > 0 for factor in factors.values())


def test_a_tuned_model_is_saved_merged_and_copied(tuned, tmp_path):
    model, _ = tuned
    text = torch.randint(256, (3, 20), generator=torch.Generator().manual_seed(int(torch.randint(2**31, ()))))
    with torch.no_grad():
        expected = model(text)[0]
        model.save_adapter(tmp_path / "adapter")
        again = zoo.load("lstm", bits=4, lora=str(tmp_path / "adapter"), device="cpu")
        assert torch.equal(again(text)[0], expected)
        assert torch.equal(copy.deepcopy(model.module)(text)[0], expected)
        model.save(tmp_path / "whole")
        whole = zoo.load(str(tmp_path / "whole"), device="cpu")
        torch.testing.assert_close(whole(text)[0], expected, atol=1e-5, rtol=1e-5)
        model.merge()
        torch.testing.assert_close(model(text)[0], expected, atol=1e-5, rtol=1e-5)
        model.unmerge()
        assert torch.equal(model(text)[0], expected)


def test_flat_weights_with_factors_are_the_lstm_of_their_sum():
    model = zoo.load("lstm", lora=zoo.LoRA(rank=3, targets="all"), device="cpu", dtype="float64")
    for _, factor in model.trainable_parameters():
        factor.data.normal_(std=0.1)
    plain = nn.LSTM(48, 192, 2, batch_first=True, dtype=torch.float64)
    # state_dict() is dense: base + B·A under the library's own names.
    plain.load_state_dict({n.removeprefix("lstm."): w for n, w in model.state_dict().items() if n.startswith("lstm.")})
    x = torch.randn(2, 7, 48, dtype=torch.float64)
    with torch.no_grad():
        output, (h, c) = model.module.lstm(x)
        expected, (h_expected, c_expected) = plain(x)
    torch.testing.assert_close((output, h, c), (expected, h_expected, c_expected), atol=1e-12, rtol=1e-12)


def test_the_state_goes_on_where_the_text_is_cut():
    model = zoo.load("lstm", bits=4, lora=4, device="cpu")
    text = torch.randint(256, (2, 30))
    with torch.no_grad():
        whole, _ = model(text)
        first, state = model(text[:, :11])
        second, _ = model(text[:, 11:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, atol=1e-5, rtol=1e-5)
    assert [tensor.shape for tensor in state] == [(2, 2, 192)] * 2


def test_texts_of_one_batch_use_adapters_of_their_own():
    model = zoo.load("lstm", device="cpu", lora={"one": zoo.LoRA(rank=2), "two": zoo.LoRA(rank=3)})
    for _, factor in model.trainable_parameters():
        factor.data.normal_(std=0.1)
    text = torch.randint(256, (3, 9))
    with torch.no_grad():
        logits, state = model(text, adapters=["two", "one", "two"])
        for name, rows in (("one", [1]), ("two", [0, 2])):
            model.activate(name)
            expected, own = model(text[rows])
            torch.testing.assert_close(logits[rows], expected, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(state[0][rows], own[0], atol=1e-5, rtol=1e-5)


def test_a_prompt_is_continued_and_the_likeliest_text_needs_no_seed():
    model = zoo.load("lstm", device="cpu")
    one, two = model.sample(2, prompt="Return the ", length=30, temperature=0.0).data
    assert one == two
    assert one.startswith("Return the ")
    assert len(one.encode()) >= 41


def test_the_trained_model_knows_english():
    english = "Return the number of items in the list. If the argument is not given, the default value is used instead."
    text = torch.tensor([list(("\n" + english).encode())])
    trained = zoo.load("lstm", device="cpu").evaluate(text)["bits_per_byte"]
    assert trained < 2.2  # of 8; bytes by their frequency alone take 4.5
    assert zoo.load("lstm", bits=4, device="cpu").evaluate(text)["bits_per_byte"] < trained + 0.3
    shuffled = text[:, torch.randperm(text.shape[1])]
    assert zoo.load("lstm", device="cpu").evaluate(shuffled)["bits_per_byte"] > 2 * trained


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda model: model.sample(1, prompt=""), "expected a text"),
        (lambda model: model.sample(1, length=0), "length: expected"),
        (lambda model: model.sample(1, steps=3), "length, prompt, temperature"),
        (lambda model: next(iter(model.batches(torch.full((1, 4), 300), batch_size=1))), "expected bytes"),
        (lambda model: next(iter(model.batches(torch.rand(3, 4), batch_size=1))), "integer Tensor"),
    ],
)
def test_mistakes_are_told_in_one_line(call, told):
    with pytest.raises(zoo.ZooError, match=told) as error:
        call(zoo.load("lstm", device="cpu"))
    assert "\n" not in str(error.value)


def test_a_folder_whose_sizes_are_no_numbers_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "ByteLSTM", "embedding": 8, "hidden": "many", "layers": 1}')
    with pytest.raises(zoo.CheckpointError, match="hidden as a whole number"):
        zoo.load(str(tmp_path), device="meta")


def test_from_random_weights_it_learns_and_what_it_writes_is_loaded(tmp_path):
    model = zoo.load("lstm", weights="random", seed=0, device="cpu")
    before = model.evaluate("text:licences")["bits_per_byte"]
    result = model.tune("text:licences", steps=20, batch_size=8, quiet=True)
    assert (result.lr, result.trainable) == (6e-3, 544_000)
    assert model.evaluate("text:licences")["bits_per_byte"] < before - 1
    model.save(tmp_path / "new", digests=True)
    again = zoo.load(f"{tmp_path}/new", device="cpu")
    assert list(again.sample(1, seed=0, length=20)) == list(model.sample(1, seed=0, length=20))
