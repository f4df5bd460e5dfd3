"""Saved adapters that do not fit the model: one clear error, and the model is unchanged."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.errors import AdapterError

from .saved_folders import MANIFEST, TARGETS, edit, edit_json, key, with_own


def test_the_adapter_as_it_was_saved_is_taken(saved: Path, mixed: nn.Module, ids: Tensor) -> None:
    model = zoo.wrap(mixed, lora={"it": saved})
    assert model.active == ("it",)
    model.add_adapter("again", with_own(saved))
    assert model.adapters["again"].targets == tuple(TARGETS)


def test_a_missing_factor_is_named(saved: Path, refuses: Callable[..., None]) -> None:
    refuses(edit(saved, lambda t: t.pop(key("block.fc", "A"))), r"block\.fc has only its factor B")


def test_a_missing_weight_is_named(saved: Path, refuses: Callable[..., None]) -> None:
    refuses(
        edit(saved, lambda t: [t.pop(key("conv2d", f)) for f in "AB"]), r"targets conv2d, for which the file has no"
    )


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.fc.lora_C.weight",
        "base_model.model.fc.lora_magnitude_vector",
        "base_model.model.fc.lora_A.default.weight",
        "fc.lora_A.weight",
        "base_model.model.fclora_A.weight",
        "base_model.model.fc.lora_embedding_A",
        "base_model.model.block.norm.weight",
        "base_model.model.fc.lora_B.bias",
        "zoo.fc.weight.lora_A.weight",
        "lora_A",
        "",
    ],
)
def test_an_unexpected_key_is_named(name: str, saved: Path, refuses: Callable[..., None]) -> None:
    refuses(edit(saved, lambda t: t.update({name: torch.zeros(2, 2)})), f"unexpected key {name!r}")


@pytest.mark.parametrize(
    "name", ["base_model.model.nowhere.lora_A.weight", "zoo.nowhere.weight.lora_A", "zoo.fc.lora_A"]
)
def test_a_key_that_matches_nothing_is_named(name: str, saved: Path, refuses: Callable[..., None]) -> None:
    refuses(edit(saved, lambda t: t.update({name: torch.zeros(2, 2)})), f"{name!r} matches no weight")


def test_keys_of_another_model_altogether(tmp_path: Path, refuses: Callable[..., None]) -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Linear(3, 3)

    folder = zoo.wrap(Other(), lora=2).save_adapter(tmp_path / "other")
    refuses(folder, r"made for the base 'Other' \(fingerprint [0-9a-f]{8}\), and 'Mixed' is another one")
    (folder / MANIFEST).unlink()
    refuses(folder, r"base_model\.model\.other\.lora_A\.weight' matches no weight of 'Mixed'")


@pytest.mark.parametrize(
    ("path", "factor", "shape"),
    [
        ("fc", "A", (2, 8)),
        ("fc", "B", (2, 5)),
        ("fc", "A", (9,)),
        ("conv2d", "A", (2, 1, 2, 3)),
        ("conv2d", "B", (4, 2)),
    ],
)
def test_misshapen_factors_are_named_with_both_shapes(
    path: str, factor: str, shape: tuple[int, ...], saved: Path, refuses: Callable[..., None]
) -> None:
    expected = {"fc": r"\(2, 9\) and \(5, 2\)", "conv2d": r"\(2, 1, 3, 2\) and \(4, 2, 1, 1\)"}[path]
    if shape == (9,):
        expected = r"\(9, 9\) and \(5, 9\)"
    edit(saved, lambda t: t.update({key(path, factor): torch.zeros(shape)}))
    refuses(saved, rf"^\S+: {path}\.weight: .*shapes.*{str(shape)[:-1].replace('(', '.')}.*, expected {expected}")


def test_another_rank_than_the_configuration_says(saved: Path, refuses: Callable[..., None]) -> None:
    refuses(edit_json(saved, r=3), r"have rank 2, the configuration says 3")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_factors_that_are_not_finite(value: float, saved: Path, refuses: Callable[..., None]) -> None:
    refuses(edit(saved, lambda t: t[key("fc", "B")][1].fill_(value)), "fc: .*finite numbers")


def test_factors_that_are_no_floats(saved: Path, refuses: Callable[..., None]) -> None:
    refuses(edit(saved, lambda t: t.update({key("fc", "B"): torch.ones(5, 2).int()})), "fc: .*finite numbers")


def test_an_adapter_of_another_base_is_told_by_its_fingerprint(
    mixed: nn.Module, refuses: Callable[..., None], tmp_path: Path
) -> None:
    other = copy.deepcopy(mixed)
    with torch.no_grad():
        other.fc.weight.add_(1e-3)
    folder = zoo.wrap(other, lora=zoo.LoRA(rank=2, targets=["fc"])).save_adapter(tmp_path / "other")
    refuses(folder, "fingerprint")


def test_the_fingerprint_is_the_same_in_any_precision(saved: Path, mixed: nn.Module) -> None:
    with_own(saved)
    for bits in (None, 4, 8, 16, 32):
        assert zoo.wrap(copy.deepcopy(mixed), bits=bits, lora=saved).active == ("default",)


def test_the_base_that_peft_names_is_compared_between_hub_repositories_only(saved: Path, mixed: nn.Module) -> None:
    import dataclasses

    def model(weights: str | None) -> zoo.Model:
        made = zoo.wrap(copy.deepcopy(mixed))
        made.adapter_set.entry = dataclasses.replace(made.entry, weights=weights)
        return made

    edit_json(saved, base_model_name_or_path="someone/gpt2")
    for fitting in (None, "embedded", "someone/gpt2", str(saved)):
        model(fitting).add_adapter("it", saved)
    with pytest.raises(AdapterError, match=r"made for the base 'someone/gpt2', and this is 'other/llama'"):
        model("other/llama").add_adapter("it", saved)
    edit_json(saved, base_model_name_or_path="/home/someone/gpt2")
    model("other/llama").add_adapter("it", saved)


def test_a_file_without_any_adapter(saved: Path, refuses: Callable[..., None]) -> None:
    refuses(edit(saved, dict.clear), "holds no adapter at all")


def test_what_no_adapter_can_be(tmp_path: Path, refuses: Callable[..., None]) -> None:
    refuses(str(tmp_path / "nothing"), "expected a folder that exists")
    refuses("no-such-thing", "expected a folder that exists, or a Hub repository written owner/name")
    refuses(8.5, "lora: expected a rank")
    refuses(True, "lora: expected a rank")
    refuses(0, "rank: expected a whole number of at least 1, got 0")
    refuses(2, "there is an adapter 'first' already", name="first")
    for name in ("", "a.b", "-a", "a b", "ä", None):
        refuses(2, "adapter name", name=name)  # type: ignore[arg-type]
