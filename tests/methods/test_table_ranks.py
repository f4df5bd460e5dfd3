"""LoRA of a vocabulary's tables has a higher rank, which is said where PEFT reads it."""

from __future__ import annotations

import copy
import json

import pytest
from torch import nn

import zoo
from zoo.weights.walk import managed_weights


class Tied(nn.Module):
    """A vocabulary's table that is the head too, another head of it, a small table, and a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.kinds = nn.Embedding(300, 48), nn.Embedding(2, 48)
        self.inner, self.head = nn.Linear(48, 200), nn.Linear(48, 300, bias=False)
        self.untied = nn.Linear(48, 300)
        self.head.weight = self.words.weight

    def forward(self, ids):
        return self.head(self.words(ids))


def ranks(model) -> dict[str, tuple[int, float]]:
    return {
        name: (update.A.shape[0], update.scale)
        for name, store in managed_weights(model.module).items()
        for update in store.updates.values()
    }


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        (2, (16, 2.0)),
        (8, (16, 2.0)),
        (zoo.LoRA(4, alpha=2, rslora=True), (16, 1.0)),
        (zoo.LoRA(4, dora=True), (16, 4.0)),
        (zoo.LoRA(20), (20, 0.8)),
        (zoo.LoRA(4, alpha=4, rank_pattern={"words": 6}), (6, 4 / 6)),
        (zoo.LoRA(4, rank_pattern={".*": 4}), (4, 4.0)),
        (zoo.LoRA(4, alpha_pattern={"words": 1}), (16, 1 / 16)),
        (zoo.LoRA(4, targets=["inner", "words"]), (16, 4.0)),
        (zoo.LoHa(4, targets="all"), None),
    ],
)
def test_a_table_has_eight_times_the_rank_up_to_a_third(lora, words):
    model = zoo.wrap(Tied(), lora=lora)
    if words is None:
        assert model.adapters["default"].rank_pattern == {}
        return
    found = ranks(model)
    assert found["words.weight"] == pytest.approx(words)
    config = model.adapters["default"]
    assert found["inner.weight"] == pytest.approx((config.rank_of("inner"), config.scale_of("inner")))
    if "untied.weight" in found and not {*getattr(lora, "rank_pattern", ()), *getattr(lora, "alpha_pattern", ())}:
        assert found["untied.weight"] == found["words.weight"]
    assert "kinds.weight" not in found or found["kinds.weight"][0] == config.rank


def test_a_saved_adapter_says_it_and_a_loaded_one_keeps_its_own(tmp_path):
    made = Tied()
    model = zoo.wrap(copy.deepcopy(made), lora=8)
    model.save_adapter(tmp_path / "one")
    fields = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    names = ("^words", "^head", "^untied")
    assert (fields["r"], fields["rank_pattern"]) == (8, dict.fromkeys(names, 16))
    assert fields["alpha_pattern"] == dict.fromkeys(names, 32)
    assert ranks(zoo.wrap(copy.deepcopy(made), lora=str(tmp_path / "one"))) == ranks(model)
    low = zoo.wrap(copy.deepcopy(made), lora=zoo.LoRA(8, rank_pattern={"words": 3}))
    low.save_adapter(tmp_path / "low")
    assert ranks(zoo.wrap(made, lora=str(tmp_path / "low"))) == ranks(low)


def test_every_entry_of_the_registry_adapts_all_its_weights():
    assert {entry.name for entry in zoo.entries() if entry.targets not in (None, "all")} == {"gpt3-175b"}
    model = zoo.load("gpt", lora=8, device="meta")
    assert model.footprint().adapted_share > 0.99
    assert ranks(model)["transformer.wte.weight"][0] == 64


def test_an_entry_may_name_what_trains_beside_a_bare_rank():
    bare = zoo.load("stylegan", lora=8, device="meta").adapters["default"]
    said = zoo.load("stylegan", lora=zoo.LoRA(8), device="meta").adapters["default"]
    assert (bare.modules_to_save, said.modules_to_save) == (("bias",), ())
