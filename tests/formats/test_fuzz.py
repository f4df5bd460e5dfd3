"""Damaged and hostile files: loading returns an adapter or raises a ZooError, changes no model, allocates little.

2,400 files with mutated headers, configurations, zoo.json and bytes, of every format that is read. At most twice a
file's size (float16 factors become float32) and 64 KiB are allocated, beside the Python objects parsed from JSON: at
most 40 times its text, which is at most 1 MiB, and 8 MiB in a safetensors header.
"""

from __future__ import annotations

import copy
import json
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import zoo
from zoo.errors import AdapterError, ZooError
from zoo.storage import atomic
from zoo.storage.untrusted import HEADER_LIMIT, read_tensors
from zoo.storage.untrusted_json import JSON_LIMIT

CONFIG, TENSORS, MANIFEST = "adapter_config.json", "adapter_model.safetensors", "zoo.json"
SMALL = 1 << 16
EXAMPLES = 160


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.conv = nn.Conv1d(4, 4, 1)
        self.fc = nn.Linear(4, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.fc(self.conv(self.embed(ids).transpose(1, 2)).transpose(1, 2))


class Allocations(TorchDispatchMode):
    """Count the bytes of all tensors created in the block, freed or not, without views and mapped files."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        if "from_file" not in str(func):
            for tensor in tree_leaves(out):
                if isinstance(tensor, Tensor) and not tensor.is_meta and tensor.untyped_storage()._cdata not in before:
                    self.bytes += tensor.untyped_storage().nbytes()
        return out


def lycoris(folder: Path) -> None:
    names = {"fc": (2, 3, 4), "conv": (2, 4, 4)}
    tensors = {}
    for path, (rank, out, into) in names.items():
        ones = [1] * (path == "conv")
        tensors[f"lycoris_{path}.lora_down.weight"] = torch.randn(rank, into, *ones)
        tensors[f"lycoris_{path}.lora_up.weight"] = torch.randn(out, rank, *ones)
        tensors[f"lycoris_{path}.alpha"] = torch.tensor(3.0)
    save_file(tensors, folder / "lycoris.safetensors")


def diffusers(folder: Path) -> None:
    tensors = {"unet.fc.lora_A.weight": torch.randn(2, 4), "unet.fc.lora_B.weight": torch.randn(3, 2)}
    said = {"unet.r": 2, "unet.lora_alpha": 3, "unet.target_modules": ["fc"], "unet.peft_type": "LORA"}
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(said)}
    save_file(tensors, folder / "pytorch_lora_weights.safetensors", metadata=metadata)


OURS: dict[str, Callable[[], zoo.Adapter]] = {
    "lora": lambda: zoo.LoRA(rank=2, rank_pattern={"fc": 1}),
    "dora and all": lambda: zoo.LoRA(rank=2, targets=["embed", "fc"], dora=True, bias="all", modules_to_save=["conv"]),
    "lokr": lambda: zoo.LoKr(rank=1, targets="all"),
}
THEIRS = {"lycoris": lycoris, "diffusers": diffusers}


@pytest.fixture(scope="module", params=[*OURS, *THEIRS])
def bed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[zoo.Model, Path]:
    """Return a model without adapters, and the folder of a valid adapter."""
    folder = tmp_path_factory.mktemp("good")
    module = Tiny().eval()
    if request.param in OURS:
        zoo.wrap(copy.deepcopy(module), lora=OURS[request.param]()).save_adapter(folder)
    else:
        THEIRS[request.param](folder)
    model = zoo.wrap(module)
    model.add_adapter("good", folder)
    model.remove_adapter("good")
    return model, folder


def survives(model: zoo.Model, folder: Path) -> None:
    """Check that loading returns an adapter or raises a ZooError, allocates little, and leaves the model unchanged."""
    before = {name: (type(p), p.data_ptr()) for name, p in model.module.named_parameters()}
    size = sum(path.stat().st_size for path in folder.iterdir())
    with Allocations() as made:
        try:
            model.add_adapter("a", folder)
        except ZooError as error:
            assert "\n" not in str(error)  # noqa: PT017 - any other example may load
    assert made.bytes <= 2 * size + SMALL
    if "a" in model.adapters:
        with torch.no_grad():
            model(torch.tensor([[1, 2]]))
        model.remove_adapter("a")
    assert not model.adapters
    assert {name: (type(p), p.data_ptr()) for name, p in model.module.named_parameters()} == before


# Mutations

VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 7, 10**9, 2**63, 10**400, 0.5, -0.0, float("nan"), float("inf"), 1e308),
    *(
        "",
        "all",
        "LORA",
        "LOKR",
        "FULL",
        "IA3",
        "ZOO_LORA",
        "none",
        "all-linear",
        "(",
        "(a+)+$",
        ".*",
        "fc",
        "fc.weight",
    ),
    *("embed", "../x", "\x00", "é\ud800", [], {}, ["fc"], ["fc", 1], [[]], [None]),
    *({"fc": 2}, {"(": 1}, {"fc": 10**9}, {"": 0}, {"a": {"b": []}}),
]
KEYS = ["use_dora", "bias", "modules_to_save", "target_parameters", "exclude_modules", "layers_to_transform", "x", ""]


def value(rng: random.Random) -> Any:
    """Return one of the values, or two in a list: a copy, since a later mutation may write into it."""
    return copy.deepcopy(rng.choice([rng.choice(VALUES), rng.choice(VALUES), [rng.choice(VALUES), rng.choice(VALUES)]]))


def mutated_json(rng: random.Random, content: dict[str, Any]) -> Any:
    for _ in range(rng.randint(1, 3)):
        where: Any = content
        while isinstance(where, dict) and where and rng.random() < 0.3:
            inner = where[rng.choice(list(where))]
            if not isinstance(inner, dict):
                break
            where = inner
        key = rng.choice([*where, *KEYS])
        if rng.random() < 0.15:
            where.pop(key, None)
        else:
            where[key] = value(rng)
    return content if rng.random() < 0.97 else value(rng)


def mutated_header(rng: random.Random, content: bytes) -> bytes:
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    name = rng.choice(sorted(header))
    change = rng.choice(["rename", "drop", "shape", "dtype", "offsets", "any", "add", "metadata"])
    entry = header[name]
    if change == "rename":
        parts = name.split(".")
        parts[rng.randrange(len(parts))] = rng.choice(
            ["fc", "conv", "lora_A", "weight", "zoo", "", "alpha", "base_layer"]
        )
        header[".".join(parts)] = header.pop(name)
    elif change == "drop":
        del header[name]
    elif change == "add":
        header["base_model.model.fc." + rng.choice(["lora_A.weight", "x", "bias", "weight"])] = entry
    elif change == "metadata":
        header["__metadata__"] = {"lora_adapter_metadata": json.dumps(value(rng))}
    elif change == "any" or not isinstance(entry.get("shape"), list):
        header[name] = value(rng)
    elif change == "shape":
        entry["shape"] = [rng.choice([0, 1, 2, 3, 4, 2**31, 2**62, 2**63]) for _ in range(rng.randint(0, 4))]
    elif change == "dtype":
        entry["dtype"] = rng.choice(["F64", "F16", "BF16", "I64", "I32", "U8", "BOOL", "F8_E4M3", "C64", "X", 3])
        if rng.random() < 0.5:
            count = entry["data_offsets"][1] - entry["data_offsets"][0]
            entry["shape"] = [count // rng.choice([1, 2, 4, 8])]
    else:
        entry["data_offsets"] = [rng.choice([0, 4, 8, 16, 64, 2**40, -1]) for _ in range(rng.choice([2, 2, 3]))]
    text = json.dumps(header).encode()
    length = rng.choice([len(text)] * 8 + [0, len(text) - 1, len(text) + 8, 2**32, 2**64 - 1])
    return length.to_bytes(8, "little") + text + content[8 + size :]


def mutated_bytes(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(min(len(changed), 700))] = rng.choice(
            [0, 1, 34, 44, 58, 91, 123, 125, 255, rng.randrange(256)]
        )
    return bytes(changed[: rng.choice([len(changed)] * 3 + [rng.randrange(len(changed) + 1)])])


def written(rng: random.Random, good: Path, folder: Path, what: str) -> bool:
    """Write a mutant of one of the valid adapter's files; return False if the format has no file of this kind."""
    for old in folder.iterdir():
        old.unlink()
    contents = {path.name: path.read_bytes() for path in good.iterdir()}
    tensors = next(name for name in contents if name.endswith(".safetensors"))
    if what == "json":
        if CONFIG not in contents:
            return False
        name = rng.choice([CONFIG, CONFIG, MANIFEST])
        contents[name] = json.dumps(mutated_json(rng, json.loads(contents[name]))).encode("utf-8", "surrogatepass")
    elif what == "header":
        contents[tensors] = mutated_header(rng, contents[tensors])
    else:
        name = rng.choice(list(contents))
        contents[name] = mutated_bytes(rng, contents[name])
    if MANIFEST in contents and (what != "json" or rng.random() < 0.5):
        if rng.random() < 0.5:
            del contents[MANIFEST]
        elif what != "bytes":  # digests that agree, so that the rest is read
            own = json.loads(contents[MANIFEST])
            if isinstance(own, dict) and isinstance(own.get("sha256"), dict):
                for name in (CONFIG, TENSORS):
                    (folder / name).write_bytes(contents[name])
                    own["sha256"][name] = atomic.digest(folder / name)
                contents[MANIFEST] = json.dumps(own).encode("utf-8", "surrogatepass")
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return True


@pytest.mark.parametrize("what", ["json", "header", "bytes"])
def test_mutants(what: str, bed: tuple[zoo.Model, Path], tmp_path: Path) -> None:
    model, good = bed
    seed = random.randrange(2**32)
    for number in range(EXAMPLES):
        rng = random.Random(seed + number)
        if not written(rng, good, tmp_path, what):
            what = "header"
            written(rng, good, tmp_path, what)
        try:
            survives(model, tmp_path)
        except BaseException as error:
            error.add_note(f"seed {seed + number}: {[(p.name, p.read_bytes()[:600]) for p in tmp_path.iterdir()]}")
            raise


def test_a_mutant_is_json_whatever_was_made_before_it() -> None:
    before = repr(VALUES)
    for seed in range(2000):
        json.dumps(mutated_json(random.Random(seed), {"a": {}, "b": {"c": 1}}))
    assert repr(VALUES) == before


def test_there_are_enough_mutants() -> None:
    assert 3 * EXAMPLES * (len(OURS) + len(THEIRS)) >= 2000


# Sizes


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_reading_a_large_adapter_allocates_its_factors_and_little_else(dtype: torch.dtype, tmp_path: Path) -> None:
    module = nn.Sequential(*(nn.Linear(256, 256) for _ in range(8)))
    zoo.wrap(copy.deepcopy(module), lora=zoo.LoRA(rank=64)).save_adapter(tmp_path)
    (tmp_path / MANIFEST).unlink()
    save_file({name: tensor.to(dtype) for name, tensor in load_file(tmp_path / TENSORS).items()}, tmp_path / TENSORS)
    size = (tmp_path / TENSORS).stat().st_size
    model = zoo.wrap(module)
    model.add_adapter("first", tmp_path)  # imports what it needs
    model.remove_adapter("first")
    tracemalloc.start()
    try:
        with Allocations() as made:
            model.add_adapter("a", tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size >= 8 * SMALL
    assert made.bytes <= (2 if dtype == torch.float16 else 1) * size + SMALL
    assert peak <= 4 * SMALL  # Python's own objects


def test_what_a_configuration_claims_is_not_allocated(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(6, 5))
    zoo.wrap(copy.deepcopy(module), lora=zoo.LoHa(rank=2)).save_adapter(tmp_path)
    (tmp_path / MANIFEST).unlink()
    raw = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({**raw, "r": 10**6}))
    with Allocations() as made, pytest.raises(AdapterError, match=r"expected .*1000000"):
        zoo.wrap(module, lora=tmp_path)
    assert made.bytes < SMALL


def test_what_a_header_claims_is_not_allocated(tmp_path: Path) -> None:
    header = {"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    text = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    for length in (len(text), 2**30, 2**63, HEADER_LIMIT + 1):
        path.write_bytes(length.to_bytes(8, "little") + text + bytes(64))
        tracemalloc.start()
        with Allocations() as made, pytest.raises(AdapterError, match="damaged or no safetensors"):
            read_tensors(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert made.bytes == 0
        assert peak < SMALL


@pytest.mark.parametrize("text", ["[" * JSON_LIMIT, "{}" + " " * JSON_LIMIT, '{"a": [' + "{}," * 300_000 + "{}]}"])
def test_json_that_is_all_brackets_or_too_long(text: str, tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text(text)
    (tmp_path / TENSORS).write_bytes(b"")
    model = zoo.wrap(Tiny())
    tracemalloc.start()
    try:
        with pytest.raises(AdapterError):
            model.add_adapter("a", tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= 40 * len(text)
