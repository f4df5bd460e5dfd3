"""Which examples a model was trained on, so that an evaluation on them says so."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from zoo.data.report import Report
from zoo.data.spec import ALL


class SeenExamples:
    """The keys of the examples that a model was trained on in this process, 8 bytes each."""

    def __init__(self) -> None:
        self._keys = np.empty(0, dtype=np.uint64)

    def add(self, reports: Iterable[Report]) -> None:
        """Add the examples that a run was given."""
        self._keys = np.union1d(self._keys, _keys(reports, "train"))

    def share(self, reports: Iterable[Report]) -> float:
        """Return the share of the examples that an evaluation was given which the model was trained on."""
        keys = _keys(reports, "test")
        return float(np.isin(keys, self._keys).mean()) if len(keys) and len(self._keys) else 0.0


def _keys(reports: Iterable[Report], split: str) -> np.ndarray:
    raw: list[bytes] = []
    for report in reports:
        served = report.keys if ALL in report.served else report.served or (split,)
        raw += [key for name in served for key in report.keys.get(name, ())]
    return np.frombuffer(b"".join(raw), dtype=np.uint64)
