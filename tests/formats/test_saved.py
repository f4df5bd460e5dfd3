"""Saved adapters that do not fit or are damaged: one clear error, and the model is unchanged."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import zoo
from zoo.errors import AdapterError, OutputError, UnknownNameError, ZooError
from zoo.storage import atomic

CONFIG, TENSORS, MANIFEST = "adapter_config.json", "adapter_model.safetensors", "zoo.json"
TARGETS = ["fc", "conv2d", "embed"]


@pytest.fixture
def saved(mixed: nn.Module, tmp_path: Path, perturb: Callable[..., None]) -> Path:
    """Return the folder of an adapter of `mixed`, without zoo.json, as PEFT writes it."""
    model = zoo.wrap(copy.deepcopy(mixed), lora=zoo.LoRA(rank=2, targets=TARGETS))
    perturb(model)
    folder = model.save_adapter(tmp_path / "saved")
    (folder / MANIFEST).rename(tmp_path / MANIFEST)
    return folder


def with_own(folder: Path) -> Path:
    (folder.parent / MANIFEST).rename(folder / MANIFEST)
    return folder


@pytest.fixture(params=[None, 4])
def refuses(request: pytest.FixtureRequest, mixed: nn.Module, ids: Tensor) -> Iterator[Callable[..., None]]:
    """Return refuses(lora, match): check that a model with an adapter rejects this one, and does not change."""
    model = zoo.wrap(copy.deepcopy(mixed), bits=request.param, lora={"first": zoo.LoRA(rank=2, targets=["fc"])})
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.add_(0.1)

    def state() -> tuple[Any, ...]:
        names = [name for name, _ in model.module.named_parameters()]
        trains = [parameter.requires_grad for parameter in model.module.parameters()]
        return dict(model.adapters), model.active, names, trains, list(model.weights())

    def check(lora: Any, match: str, error: type[ZooError] = AdapterError, name: str = "new") -> None:
        with torch.no_grad():
            before, output = state(), model(ids)
            with pytest.raises(error, match=match) as caught:
                model.add_adapter(name, lora)
            assert "\n" not in str(caught.value), "an error is one line"
            assert state() == before
            assert torch.equal(model(ids), output)
            if isinstance(lora, Path):
                with pytest.raises(error, match=match):
                    zoo.wrap(copy.deepcopy(mixed), lora={"good": 2, "bad": lora})

    yield check
    assert list(model.adapters) == ["first"]


def edit(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    tensors = load_file(folder / TENSORS)
    change(tensors)
    save_file(tensors, folder / TENSORS)
    return folder


def edit_json(folder: Path, name: str = CONFIG, **values: Any) -> Path:
    raw = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**raw, **values}))
    return folder


def key(path: str, factor: str) -> str:
    return f"base_model.model.{path}.lora_{factor}.weight"


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


@pytest.mark.parametrize("name", [CONFIG, TENSORS])
def test_a_file_that_is_not_there(name: str, saved: Path, refuses: Callable[..., None]) -> None:
    (saved / name).unlink()
    refuses(saved, f"no {name}")


@pytest.mark.parametrize("name", [CONFIG, TENSORS])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_file(name: str, damage: str, saved: Path, refuses: Callable[..., None]) -> None:
    data = bytearray((saved / name).read_bytes())
    if damage == "flipped":
        data[7 if name == TENSORS else 0] ^= 64
    (saved / name).write_bytes(data[: {"truncated": len(data) // 2, "empty": 0}.get(damage, len(data))])
    refuses(saved, f"{name}: damaged")
    refuses(with_own(saved), f"{name}: damaged|sha256")


@pytest.mark.parametrize("name", [CONFIG, TENSORS])
def test_one_bit_that_only_the_digest_shows(name: str, saved: Path, refuses: Callable[..., None]) -> None:
    data = bytearray((saved / name).read_bytes())
    if name == CONFIG:
        data = data.replace(b'"lora_alpha": 16', b'"lora_alpha": 17')
    else:
        data[-2] ^= 1
    (saved / name).write_bytes(data)
    refuses(with_own(saved), f"{name}: damaged or changed, its sha256 is not the one in zoo.json")


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "3",
        '{"format": 2}',
        '{"format": 3, "base": {}, "sha256": {}}',
        '{"format": 1, "base": {}, "sha256": {"../x": ""}}',
        '{"format": 1, "base": {}}',
        "{",
        "\x00",
        "[" * 100_000,
    ],
)
def test_a_zoo_json_that_says_something_else(content: str, saved: Path, refuses: Callable[..., None]) -> None:
    (saved / MANIFEST).write_text(content)
    refuses(saved, r"zoo\.json: ")


def test_a_pickle_is_not_read(saved: Path, tmp_path: Path, refuses: Callable[..., None]) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    (saved / TENSORS).unlink()
    (saved / "adapter_model.bin").write_bytes(pickle.dumps({"x": Payload()}))
    refuses(saved, r"adapter_model\.bin: a pickle, which zoo does not execute")
    (saved / TENSORS).write_bytes(pickle.dumps({"x": Payload()}))
    refuses(saved, "damaged or no safetensors")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"r": 0}, "rank: expected a whole number of at least 1, got 0"),
        ({"r": "8"}, "rank"),
        ({"r": True}, "rank"),
        ({"lora_alpha": None}, "alpha: expected a number, at most 1e.18, got None"),
        ({"lora_alpha": float("nan")}, "alpha"),
        ({"lora_dropout": 1.0}, "dropout"),
        ({"target_modules": "("}, "not a regular expression"),
        ({"target_modules": [1]}, "targets"),
        ({"target_modules": {"a": 1}}, "targets"),
        ({"rank_pattern": {"(": 2}}, "rank_pattern: .* is not a regular expression"),
        ({"rank_pattern": [2]}, "rank_pattern"),
        ({"rank_pattern": {"fc": 0}}, "rank"),
        ({"use_rslora": "yes"}, "rslora"),
        ({"peft_type": "PROMPT"}, "expected peft_type 'LORA' or a plugin's"),
        ({"peft_type": 3}, "expected a peft_type such as 'LORA', got 3"),
        ({"use_dora": True}, "has only its factors A and B, and magnitude is missing"),
        ({"use_dora": 1}, "dora: expected True or False"),
        ({"lora_bias": True}, "lora_bias = True is a feature of PEFT"),
        ({"bias": "some"}, "bias: expected one of"),
        ({"modules_to_save": ["block.norm"]}, "saves block.norm.weight whole, and the file does not hold it"),
        ({"modules_to_save": ["nrm"]}, "modules_to_save: 'nrm' matches no parameter"),
        ({"modules_to_save": 3}, "modules_to_save"),
        ({"target_parameters": "fc"}, "target_parameters: expected a list"),
        ({"some_future_option": {"x": 1}}, "some_future_option"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights"),
    ],
)
def test_a_configuration_that_cannot_be(
    values: dict[str, Any], match: str, saved: Path, refuses: Callable[..., None]
) -> None:
    refuses(edit_json(saved, **values), match)


@pytest.mark.parametrize("missing", ["r", "lora_alpha", "peft_type"])
def test_a_configuration_that_does_not_say(missing: str, saved: Path, refuses: Callable[..., None]) -> None:
    raw = json.loads((saved / CONFIG).read_text())
    del raw[missing]
    (saved / CONFIG).write_text(json.dumps(raw))
    refuses(saved, f"{missing}")


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


def test_an_adapter_on_meta_has_nothing_to_save(tmp_path: Path) -> None:
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(3, 4))
    model = zoo.wrap(module, lora=2)
    with pytest.raises(AdapterError, match="'meta' has no values to save"):
        model.save_adapter(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_saving_names_the_adapter_that_it_lacks(mixed: nn.Module, tmp_path: Path) -> None:
    model = zoo.wrap(mixed)
    with pytest.raises(AdapterError, match="no adapter to save"):
        model.save_adapter(tmp_path / "a")
    model.add_adapter("letters", 2)
    model.add_adapter("digits", 2)
    with pytest.raises(UnknownNameError, match="Did you mean 'letters'"):
        model.save_adapter(tmp_path / "a", "lettters")
    assert not list(tmp_path.iterdir())


def test_saving_below_a_file_is_refused(mixed: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    model = zoo.wrap(mixed, lora=2)
    for place in (tmp_path / "file" / "below", tmp_path / "file"):
        with pytest.raises(OutputError, match=r"cannot write .*file"):
            model.save_adapter(place)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_the_earlier_adapter(
    mixed: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = zoo.wrap(mixed, lora=2)
    folder = model.save_adapter(tmp_path / "a")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(path: Any, value: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "write_json", full)
    with pytest.raises(OutputError, match="No space left on device"):
        model.save_adapter(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_saving_leaves_other_files_alone(mixed: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "other").mkdir()
    zoo.wrap(mixed, lora=2).save_adapter(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert {path.name for path in tmp_path.iterdir()} == {"thesis.txt", "other", CONFIG, TENSORS, MANIFEST}
