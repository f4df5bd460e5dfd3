"""The parts of a run in their order, with their shares of the budget. Their modules are imported when they run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, NamedTuple

Row = Mapping[str, Any]  # what was measured → its value; the first entries say of what


class Setup(NamedTuple):
    """Where a part runs.

    Attributes:
        device: "cuda", or "cpu" to check the scripts.
        quick: Whether sizes are tiny.
    """

    device: str
    quick: bool


class Part(NamedTuple):
    """One part.

    Attributes:
        title: What its table is called.
        note: What its columns mean.
        share: Its part of the budget, relative to the others'.
        module: Where its function `rows(setup)` is, which yields rows as it measures them.
    """

    title: str
    note: str
    share: float
    module: str

    def rows(self, setup: Setup) -> Iterator[Row]:
        """Import the part's module and yield its rows."""
        yield from import_module(f"on_gpu.{self.module}").rows(setup)


PARTS = {
    "kernels-right": Part(
        "Triton kernels against torch in float64",
        "Error: of the result in bf16, relative to its norm; torch's own path beside it.",
        2,
        "kernels_right",
    ),
    "right": Part(
        "Every architecture, bits and adapter in bf16 against float64 on the CPU",
        "Error of the loss, and of the factors' gradients (1 − cosine), with the same stored weights.",
        5,
        "right",
    ),
    "kernels": Part(
        "Products with a 4-bit weight by the number of rows of x",
        "µs, medians; weights take turns, so that the cache does not hold them. GB/s counts the packed weight. dense: "
        "the library's product with a bf16 weight.",
        5,
        "kernels",
    ),
    "steps": Part(
        "Steps and forwards",
        "ms, medians over rounds that take turns; × is to the frozen floor in the same run; peak is what a step takes "
        "over what is there before it.",
        12,
        "steps",
    ),
    "decoding": Part(
        "Decoding",
        "Tokens a second of a Llama-like model in bf16, greedy, with its cache.",
        6,
        "decoding",
    ),
    "graphs": Part(
        "CUDA graphs of a managed module",
        "A forward and a LoRA step, captured and replayed: ms eager and replayed, and how far the results are apart.",
        2,
        "graphs",
    ),
    "qlora": Part(
        "QLoRA of an 8B model",
        "Random weights, made on the card. Peak memory of the steps, of the whole process on the card.",
        6,
        "qlora",
    ),
}
