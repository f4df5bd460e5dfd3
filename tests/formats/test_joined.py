"""Every operation of transformers' that moves rows: what it does to factors is what it does to the dense weights."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from torch import Tensor, nn

from zoo.errors import AdapterError
from zoo.formats.peft.joined import Source, join
from zoo.formats.peft.keys import factors_from_file, slots
from zoo.integrations.old_names import Conversion, Renamed
from zoo.methods.config import LoRA
from zoo.weights.layout import layout_of

CONFIG = SimpleNamespace(num_attention_heads=2)


def operations() -> Any:
    from transformers import core_model_loading

    return core_model_loading


def recent(name: str, *arguments: int) -> Any:
    """Return an operation; None where transformers is too old to have it, or to run it."""
    if name == "PermuteForRope" and Version(transformers.__version__) < Version("5.16"):
        return None  # it calls `config.getattr`, which no configuration has
    kind = getattr(operations(), name, None)
    return kind and kind(*arguments)


class Stack(nn.Module):
    """Holds matrices in one parameter, as a list of experts does."""

    def __init__(self, *shape: int, name: str = "fused", inputs_first: bool = False) -> None:
        super().__init__()
        self.register_parameter(name, nn.Parameter(torch.zeros(shape)))
        self.is_transposed = inputs_first


def cases() -> dict[str, tuple[nn.Module, list[str], list[str], list[Any], dict[str, tuple[int, int]]]]:
    """Return the module of today, patterns then and today, operations, and name → shape then."""
    ops = operations()
    linear = dict.fromkeys(("l.q.weight", "l.k.weight"), (8, 6)) | {"l.v.weight": (4, 6)}
    experts = {f"l.experts.{n}.{name}.weight": (8, 6) for n in range(3) for name in ("w1", "w3")}
    merge = [ops.MergeModulelist(dim=0), ops.Concatenate(dim=1)]
    many = ["experts.*.w1.weight", "experts.*.w3.weight"]
    down = {f"l.experts.{n}.w2.weight": (6, 8) for n in range(3)}
    split = nn.ModuleDict({"q": nn.Linear(6, 8), "k": nn.Linear(6, 8), "v": nn.Linear(6, 4)})
    halves = nn.ModuleDict({"gate": nn.Linear(6, 4), "up": nn.Linear(6, 4)})
    targets = ["gate.weight", "up.weight"]
    fused = nn.ModuleDict({"qkv": nn.Linear(6, 20)})
    return {
        "concatenated": (fused, ["q.weight", "k.weight", "v.weight"], ["qkv.weight"], [ops.Concatenate(0)], linear),
        "chunks": (halves, ["both.weight"], targets, [ops.Chunk(0)], {"l.both.weight": (8, 6)}),
        "interleaved chunks": (
            halves,
            ["both.weight"],
            targets,
            [recent("Interleave", 0), ops.Chunk(0)],
            {"l.both.weight": (8, 6)},
        ),
        "parts of other sizes": (
            split,
            ["qkv.weight"],
            ["q.weight", "k.weight", "v.weight"],
            [recent("Split", 0)],
            {"l.qkv.weight": (20, 6)},
        ),
        "permuted": (
            nn.ModuleDict({"q_proj": nn.Linear(6, 8)}),
            ["wq.weight"],
            ["q_proj.weight"],
            [recent("PermuteForRope")],
            {"l.wq.weight": (8, 6)},
        ),
        "transposed": (
            nn.ModuleDict({"t": nn.Linear(8, 6)}),
            ["gate.weight"],
            ["t.weight"],
            [ops.Transpose(0, 1)],
            {"l.gate.weight": (8, 6)},
        ),
        "experts": (nn.ModuleDict({"experts": Stack(3, 16, 6)}), many, ["experts.fused"], merge, experts),
        "one list of experts": (
            nn.ModuleDict({"experts": Stack(3, 6, 8)}),
            ["experts.*.w2.weight"],
            ["experts.fused"],
            merge[:1],
            down,
        ),
        "experts, inputs first": (
            nn.ModuleDict({"experts": Stack(3, 6, 16, inputs_first=True)}),
            many,
            ["experts.fused"],
            [*merge, ops.Transpose(1, 2)],
            experts,
        ),
        "experts, interleaved": (
            nn.ModuleDict({"experts": Stack(3, 16, 6)}),
            many,
            ["experts.fused"],
            [*merge, recent("Interleave", 1)],
            experts,
        ),
        "one expert": (
            nn.ModuleDict({"experts": Stack(1, 16, 6)}),
            many,
            ["experts.fused"],
            merge,
            {name: shape for name, shape in experts.items() if ".0." in name},
        ),
    }


NAMES = ["concatenated", "chunks", "interleaved chunks", "parts of other sizes", "permuted", "transposed", "experts"]
NAMES += ["one list of experts", "experts, inputs first", "experts, interleaved", "one expert"]


def made(case: str, left_out: tuple[str, ...] = (), dora: bool = False) -> tuple[Any, dict[str, Tensor], Any]:
    """Return what `join` makes of factors, what the operations make of their products, and the module."""
    layer, patterns, targets, steps, shapes = cases()[case]
    if None in steps:
        pytest.skip(f"transformers {transformers.__version__} has no such operation that works")
    module = nn.ModuleDict({"l": layer})
    own = dict(module.named_parameters())
    converter = operations().WeightConverter(patterns, targets, steps)
    config = LoRA(2, 3, rank_pattern={"w3|k": 3}, alpha_pattern={"w1|v": 5}, dora=dora)
    conversion = Conversion(converter, "", SimpleNamespace(config=CONFIG))  # type: ignore[arg-type]
    sources, products = [], []
    for name, (rows, columns) in shapes.items():
        pattern = next(
            one for one in converter.source_patterns if name.endswith(one.rpartition("*")[2].replace("\\", ""))
        )
        path = name.removesuffix(".weight")
        A, B = torch.randn(config.rank_of(path), columns), torch.randn(rows, config.rank_of(path))
        keep = not any(part in name for part in left_out)
        products.append((name, pattern, config.scale_of(path) * B @ A * keep))
        parts = {"lora_A.weight": A, "lora_B.weight": B}
        if dora:
            parts["lora_magnitude_vector"] = torch.randn(rows)
        if keep:
            sources.append(Source(name, Renamed(f"l.{targets[0]}", conversion, pattern), parts))
    return join(module, own, {f"l.{targets[0]}": sources}, config), conversion(f"l.{targets[0]}", products, own), module


def deltas(joined: Any, module: nn.Module) -> dict[str, Tensor]:
    """Return name → what the factors in PEFT's form add to the weight."""
    found = {}
    for slot in slots(module, joined.parameters).values():
        path = f"base_model.model.{slot.path}."
        if f"{path}lora_A.weight" not in joined.tensors:
            continue
        A, B = joined.tensors[f"{path}lora_A.weight"], joined.tensors[f"{path}lora_B.weight"]
        shape, rank = getattr(slot.ref.layer, slot.ref.attribute).shape, joined.ranks[slot.name]
        scale = joined.alphas[slot.name] / rank
        if len(shape) == 2:
            layout = layout_of([(slot.ref.layer, slot.ref.attribute)], shape)
            A, B = factors_from_file(slot, layout, shape, A, B)
            found[slot.ref.name] = scale * (A.t() @ B.t() if layout.transposed else B @ A)
            continue
        stack = A.view(shape[0], rank, -1), B.view(-1, rank, shape[0]).permute(2, 0, 1)
        delta = scale * stack[1] @ stack[0]
        found[slot.ref.name] = delta.mT if slot.ref.layer.is_transposed else delta
    return found


@pytest.mark.parametrize("case", NAMES)
def test_factors_follow_the_weights(case: str) -> None:
    joined, expected, module = made(case)
    found = deltas(joined, module)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("case", "left_out"),
    [
        ("experts", ("w3",)),
        ("experts", (".1.",)),
        ("experts", (".0.w1", ".2.")),
        ("concatenated", (".k",)),
        ("concatenated", (".q", ".k")),
    ],
)
def test_weights_without_factors_stay(case: str, left_out: tuple[str, ...]) -> None:
    joined, expected, module = made(case, left_out)
    (name,) = expected
    torch.testing.assert_close(deltas(joined, module)[name], expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", ["concatenated", "chunks", "parts of other sizes", "permuted"])
def test_magnitudes_move_with_the_rows(case: str) -> None:
    joined, _, module = made(case, dora=True)
    magnitudes = {key: one for key, one in joined.tensors.items() if "magnitude" in key}
    assert len(magnitudes) == sum(1 for _ in module.parameters()) // 2
    if case == "chunks":
        assert [len(one) for one in magnitudes.values()] == [4, 4]


def test_what_factors_cannot_follow_is_refused() -> None:
    with pytest.raises(AdapterError, match="a DoRA of a part"):
        made("experts", dora=True)
    with pytest.raises(AdapterError, match=r"lacks those of q\.weight, whose size is not known"):
        made("concatenated", (".q", ".v"))
    ops = operations()
    layer = nn.ModuleDict({"joined": nn.Linear(12, 8)})
    for steps in ([ops.Concatenate(1)], [ops.ErnieFuseAndSplitTextVisionExperts()], [ops.Transpose(0, 1, True)]):
        converter = ops.WeightConverter(["a.weight"], ["joined.weight"], steps)
        renamed = Renamed("l.joined.weight", Conversion(converter, "", layer), "a.weight")
        parts = {"lora_A.weight": torch.ones(2, 6), "lora_B.weight": torch.ones(8, 2)}
        module = nn.ModuleDict({"l": layer})
        with pytest.raises(AdapterError, match="factors cannot follow that"):
            join(
                module, dict(module.named_parameters()), {renamed.name: [Source("l.a.weight", renamed, parts)]}, LoRA(2)
            )
