"""Random numbers of samples: from one generator for all of them, or from one for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Draws:
    """The random numbers of `n` samples, on the CPU, so that they are the same on every device.

    Of one seed for all samples they are what torch's own functions draw from `generator`, to the bit. With a seed for
    each, a sample has what it has alone with its seed, whatever the others are.

    Args:
        n: how many samples.
        generators: one for all of them, or one for each.

    >>> import torch
    >>> one, two = (torch.Generator().manual_seed(seed) for seed in (1, 2))
    >>> Draws(2, [one, two]).normal((2, 3)).shape
    torch.Size([2, 3])
    """

    def __init__(self, n: int, generators: Sequence[torch.Generator]) -> None:
        self.n, self._generators = n, list(generators)

    @property
    def generator(self) -> Any:
        """The generator, or a list with one for each sample, as diffusers' pipelines and schedulers take them."""
        return self._generators[0] if len(self._generators) == 1 else self._generators

    def of(self, part: slice) -> Draws:
        """Return the draws of some of the samples. With one generator for all, they go on where the last have ended."""
        several = len(self._generators) > 1
        return Draws(len(range(self.n)[part]), self._generators[part] if several else self._generators)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Return numbers from N(0, 1) of a shape (n, …), as `torch.randn`."""
        import torch

        return self._each(shape, lambda size, generator: torch.randn(size, generator=generator))

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Return numbers from 0 to 1 of a shape (n, …), as `torch.rand`."""
        import torch

        return self._each(shape, lambda size, generator: torch.rand(size, generator=generator))

    def exponential(self, shape: Sequence[int]) -> Tensor:
        """Return exponentially distributed numbers of a shape (n, …), as `torch.Tensor.exponential_`.

        `(probabilities / draws.exponential(probabilities.shape)).argmax(-1)` draws from the rows of probabilities.
        """
        import torch

        return self._each(shape, lambda size, generator: torch.empty(size).exponential_(generator=generator))

    def permutation(self, k: int) -> Tensor:
        """Return an order of 0 to k - 1 for each sample, int64 (n, k), as `torch.randperm`."""
        import torch

        own = self._generators if len(self._generators) > 1 else self._generators * self.n
        return torch.stack([torch.randperm(k, generator=generator) for generator in own])

    def _each(self, shape: Sequence[int], draw: Callable[[tuple[int, ...], torch.Generator], Tensor]) -> Tensor:
        import torch

        size = tuple(shape)
        if not size or size[0] != self.n:
            raise ValueError(f"expected a shape that begins with the number of samples, {self.n}, got {size}")
        if len(self._generators) == 1:
            return draw(size, self._generators[0])
        return torch.cat([draw((1, *size[1:]), generator) for generator in self._generators])
