"""Which parameters of a base train: none while there are adapters, and what their user has chosen otherwise."""

from __future__ import annotations

from torch import nn

from zoo.weights.walk import TiedGroup, plain_names


class BaseTraining:
    """What `requires_grad` of a base's parameters was before the first adapter froze them.

    Args:
        groups: the module's parameters.

    Attributes:
        never: whether the base trains neither with adapters nor without: a quantized one.
    """

    def __init__(self, groups: list[TiedGroup]) -> None:
        self.never = False
        self._trained: dict[str, bool] = {}
        self._note(groups)

    def freeze(self, groups: list[TiedGroup], permanently: bool = False) -> None:
        """Freeze the base, and remember which parameters trained.

        Args:
            groups: the module's parameters.
            permanently: whether the base stays frozen with and without adapters.
        """
        if not self.never and not permanently:
            self._note(groups)
        for group in groups:
            for parameter in [group.value] if isinstance(group.value, nn.Parameter) else group.value.parameters():
                parameter.requires_grad_(False)
        self.never |= permanently

    def give_back(self, module: nn.Module) -> None:
        """Let the parameters train again that did before; ones that were not there do."""
        plain = plain_names(module)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(self._trained.get(plain(name), True) and parameter.is_floating_point())

    def _note(self, groups: list[TiedGroup]) -> None:
        for group in groups:
            if isinstance(group.value, nn.Parameter):
                self._trained[group.name] = group.value.requires_grad
