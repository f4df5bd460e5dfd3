"""Embedding look-up in a managed weight, against float64, and each codec's rows against its full dequantization."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import WeightError
from zoo.weights.codecs import pack
from zoo.weights.layout import Layout
from zoo.weights.ops import embedding as path
from zoo.weights.scheme import Quantization

from .helpers import QUANTIZED, SCHEMES, compare, dense_kept, managed

ROWS = 30
EMBEDDING = Layout(transposed=True, zero_first=True)
# nf4 with blocks of 64: rows at block boundaries, within blocks, of an odd width.
WIDTHS = (64, 20, 7)


def lookup(**options: Any) -> Any:
    return lambda w, index: F.embedding(index, w, **options)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_lookups(scheme: str, width: int) -> None:
    for adapters in (0, 1, 2):
        for layout in (EMBEDDING, Layout()):
            weight = managed((ROWS, width), scheme, adapters, layout=layout)
            few, many = torch.randint(ROWS, (2, 3)), torch.randint(ROWS, (5, 4, 3))
            for index in (few, many, few[0, 0], few.int()):
                compare(lookup(), weight, index)
            few[0, 1] = many[1, 1, 1] = 4
            for index in (few, many):
                compare(lookup(padding_idx=4), weight, index)
                compare(lookup(padding_idx=4 - ROWS), weight, index)
                compare(lookup(scale_grad_by_freq=True), weight, index)
                compare(lookup(scale_grad_by_freq=True, padding_idx=4), weight, index)
                compare(lambda w, one: F.embedding(input=one, weight=w), weight, index)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_embedding_bags(scheme: str) -> None:
    for adapters in (0, 1, 2):
        weight = managed((ROWS, 16), scheme, adapters, layout=EMBEDDING)
        index, offsets = torch.randint(ROWS, (12,)), torch.tensor([0, 3, 4, 10])
        for mode in ("sum", "mean", "max"):
            compare(lambda w, i, mode=mode: F.embedding_bag(i, w, offsets, mode=mode), weight, index)  # noqa: B023
            compare(lambda w, i, mode=mode: F.embedding_bag(i, w, mode=mode), weight, index.view(3, 4))
        share = torch.randn(12)
        compare(
            lambda w, s: F.embedding_bag(index, w, offsets, mode="sum", per_sample_weights=s),  # noqa: B023
            weight,
            share,
        )
        with pytest.raises(WeightError, match="max_norm"):
            F.embedding_bag(index, weight, offsets, max_norm=1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_max_norm_is_refused(scheme: str) -> None:
    weight = managed((ROWS, 16), scheme, 1)
    with pytest.raises(WeightError, match="max_norm=None"):
        F.embedding(torch.tensor([1]), weight, max_norm=1.0)  # type: ignore[arg-type]
    layer = nn.EmbeddingBag(ROWS, 16, max_norm=1.0)
    del layer.weight
    layer.__dict__["weight"] = weight
    with pytest.raises(WeightError, match="max_norm=None"):
        layer(torch.tensor([[1, 2]]))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_index_out_of_range(scheme: str) -> None:
    for width in WIDTHS:
        for adapters in (0, 1):
            weight = managed((ROWS, width), scheme, adapters, layout=EMBEDDING)
            for wrong in (-1, ROWS):
                for count in (1, 2 * ROWS):
                    with pytest.raises(IndexError):
                        F.embedding(torch.full((count,), wrong), weight)  # type: ignore[arg-type]
            assert F.embedding(torch.empty(0, 2, dtype=torch.long), weight).shape == (0, 2, width)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("block", [64, 512, 4096])
@pytest.mark.parametrize("scheme", ["nf4", "nf4 single", "fp4", "int8", "dynamic8", "bf16", "fp16"])
def test_rows_equal_full_unpacking(scheme: str, block: int, dtype: torch.dtype) -> None:
    name, _, single = scheme.partition(" ")
    bits = {"nf4": 4, "fp4": 4, "int8": 8, "dynamic8": 8, "bf16": 16, "fp16": 16}[name]
    for width in (block, 2 * block, 64, 48, 7):
        weight = torch.randn(9, width)
        packed = pack(weight, Quantization(bits, name, block, double=not single), dtype)
        index = torch.randint(9, (6,))
        full = packed()
        assert full.dtype == dtype
        rows = getattr(packed.codec, "rows", None)
        found = rows(packed.tensors(), index, width, dtype) if rows else None
        if found is not None:
            assert found.dtype == dtype
            assert torch.equal(found, full[index])
        whole_blocks = width % block == 0 and bits == 4
        assert (found is not None) == (whole_blocks or name in ("int8", "bf16", "fp16"))


def test_few_rows_do_not_unpack_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = managed((ROWS, 64), "nf4", 1, layout=EMBEDDING)
    packed = weight._zoo_store.packed
    assert packed is not None

    def forbidden(*args: Any, **kwargs: Any) -> Tensor:
        raise AssertionError("the whole weight was unpacked")

    monkeypatch.setattr(type(packed), "forward", forbidden)
    F.embedding(torch.tensor([[3, 4]]), weight)  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        path._rows(weight._zoo_store, torch.arange(ROWS))


@pytest.mark.parametrize("scheme", QUANTIZED)
def test_nothing_dense_is_kept(scheme: str) -> None:
    for width in WIDTHS:
        for adapters in (1, 2):
            for count in (3, 2 * ROWS):
                weight = managed((ROWS, width), scheme, adapters, layout=EMBEDDING)
                index = torch.randint(ROWS, (count,))
                kept, _ = dense_kept(lambda: F.embedding(index, weight), weight)  # type: ignore[arg-type]  # noqa: B023
                assert not kept, kept


def test_dropout_only_in_training() -> None:
    weight = managed((ROWS, 16), "nf4", 1, layout=EMBEDDING, dropout=0.5)
    index = torch.arange(ROWS)
    store = weight._zoo_store
    store.eval()
    assert torch.equal(F.embedding(index, weight), F.embedding(index, weight))  # type: ignore[arg-type]
    compare(lookup(), weight, index)
    store.train()
    y = F.embedding(index, weight)  # type: ignore[arg-type]
    base = store.base_tensor()
    changed = (y - base).abs().sum(1) > 0
    assert 0 < changed.sum() < ROWS
    store.eval()
    full = F.embedding(index, weight) - base  # type: ignore[arg-type]
    torch.testing.assert_close((y - base)[changed], 2 * full[changed])


def test_a_tied_head_and_embedding_train_one_adapter() -> None:
    for scheme in ("plain", "nf4"):
        weight = managed((ROWS, 16), scheme, 1, layout=EMBEDDING)
        index = torch.randint(ROWS, (5,))

        def both(w: Any, i: Tensor) -> Tensor:
            return F.linear(torch.tanh(F.embedding(i, w)), w)

        compare(both, weight, index)
