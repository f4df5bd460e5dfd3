"""A model that learns from another one, as the loop sees it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from zoo.errors import TuningError
from zoo.plugin import hooks
from zoo.torch_state.modes import evaluating

SHARE = 0.5  # of the teacher in the loss


class Taught:
    """A model whose loss is that of the hook `distill`; everything else is the model's own.

    Args:
        model: the model that learns.
        teacher: the other.
        share: how much the teacher counts in the loss, from 0 to 1.

    Raises:
        TuningError: the teacher is no other model on the same device, or the share cannot be.
    """

    def __init__(self, model: Any, teacher: Any, share: float = SHARE) -> None:
        if not hasattr(teacher, "module") or not hasattr(teacher, "entry"):
            raise TuningError(f"expected teacher as a zoo.Model, got {type(teacher).__name__}: zoo.load one")
        if teacher.module is model.module:
            raise TuningError("a model cannot be its own teacher: load it once more, zoo.load(name)")
        if teacher.device != model.device:
            raise TuningError(f"the teacher is on {teacher.device} and the model on {model.device}: load both on one")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise TuningError(f"expected teacher_share as a number from 0 to 1, got {share!r:.40}")
        self._model, self._teacher, self._share = model, teacher, float(share)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def loss(self, batch: Any) -> Tensor:
        """Return the loss of one batch, the teacher's part included."""
        with evaluating(self._teacher.module):
            return hooks.distill(self._model, self._teacher, batch, self._share)

    def identity(self) -> dict[str, dict[str, Any]]:
        """Return what the run depends on, its teacher included."""
        found = self._model.identity()
        teacher = {**self._teacher.identity()["model"]["base"], "share": self._share}
        return {**found, "model": {**found["model"], "teacher": teacher}}
