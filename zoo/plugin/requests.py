"""The requests that a plugin's `sample`, `batches` and `evaluate` hooks get."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zoo.errors import DataError, UnknownNameError, ZooError, did_you_mean
from zoo.plugin.draws import Draws
from zoo.plugin.options import Option, check_options, unknown_option

if TYPE_CHECKING:
    import torch


SEEDS = range(-(2**63), 2**64)  # what torch's generators can be seeded with
MOST_ITEMS = 2**24  # of one batch, and samples at once: more is a slip, and would take all memory


class SeveralSeedsError(ZooError):
    """A plugin asks for the one seed of a request that has one for each sample: zoo then asks for one at a time."""


@dataclass(frozen=True, eq=False, repr=False)
class SampleRequest:
    """`n` samples from `seed` (None: a fresh draw), with the plugin's own `options`, of which `known` are declared.

    With `seeds`, one for each sample, sample i is what a request for one sample with `seed=seeds[i]` gives, up to the
    rounding of a batch. `draws()` has random numbers for both forms. A plugin that asks for `seed` or `generator()`
    instead is called once for each sample.

    >>> SampleRequest(n=4, seed=0, options={"steps": 20}).take(steps=50, eta=0.0)
    {'steps': 20, 'eta': 0.0}
    """

    n: int = 1
    seed: int | None = field(default_factory=lambda: None)  # no attribute of the class: see `__getattr__`
    options: Mapping[str, Any] = field(default_factory=dict)
    known: tuple[Option, ...] | None = None
    seeds: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not _is_int(self.n) or self.n < 1:
            raise ZooError(f"expected a whole number of samples, at least 1, got {self.n!r}")
        if self.n > MOST_ITEMS:
            raise ZooError(f"expected a whole number of samples, at most {MOST_ITEMS:,}, got {self.n:.3g}")
        check_seed(self.seed)
        if self.seeds is not None:
            self._check_seeds(tuple(self.seeds))

    def _check_seeds(self, seeds: tuple[int, ...]) -> None:
        if self.seed is not None:
            raise ZooError("expected seed= for all samples or seeds= for each, got both")
        for seed in seeds:
            check_seed(seed)
        if len(seeds) != self.n or None in seeds:
            raise ZooError(f"expected a whole number as seed for each of {self.n} samples, got {list(seeds)!r:.80}")
        object.__setattr__(self, "seeds", seeds)
        if len(seeds) > 1:
            object.__delattr__(self, "seed")
        else:
            object.__setattr__(self, "seed", seeds[0])

    def __getattr__(self, name: str) -> Any:
        if name == "seed" and "seeds" in self.__dict__:
            raise SeveralSeedsError(f"the {self.n} samples of this request have a seed each: draw from request.draws()")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SampleRequest) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]  # the options are a dict

    def __repr__(self) -> str:
        return f"SampleRequest({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items())})"

    def declared(self, known: tuple[Option, ...]) -> SampleRequest:
        """Return this request with the options that the plugin declares."""
        request = copy.copy(self)
        object.__setattr__(request, "known", known)
        return request

    def take(self, **defaults: Any) -> dict[str, Any]:
        """Return the value of every option, in order: the caller's, or else the default.

        The options are those that the hook `sample_options` declares; a default given here counts instead of the
        declared one. For a plugin without that hook they are those named here: where the default is a bool, int or
        float, the caller's value must be one too (an int passes for a float).

        Raises:
            UnknownNameError: the caller gave an option that there is not.
            ZooError: a value cannot be its option's.
        """
        if self.known is not None:
            for name in defaults:
                if all(name != option.name for option in self.known):
                    raise unknown_option(name, [option.name for option in self.known])
            found = check_options(self.known, self.options)
            return {**found, **{name: value for name, value in defaults.items() if name not in self.options}}
        for name in self.options:
            if name not in defaults:
                raise unknown_option(name, defaults)
        return {name: _like(name, self.options.get(name, default), default) for name, default in defaults.items()}

    def generator(self) -> torch.Generator:
        """Return a new random generator, seeded by `seed`, or freshly if that is None.

        It is on the CPU, so that what it draws is the same on every device.
        """
        import torch

        generator = torch.Generator()
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        return generator

    def draws(self) -> Draws:
        """Return the random numbers of the samples, from `seed` as `generator()`, or from each one's own seed."""
        import torch

        if self.seeds is None or len(self.seeds) == 1:
            return Draws(self.n, [self.generator()])
        return Draws(self.n, [torch.Generator().manual_seed(seed) for seed in self.seeds])


@dataclass(frozen=True)
class BatchRequest:
    """Batches of `batch_size` items; `split` "train": endless, shuffled by `seed`; else one pass in fixed order."""

    batch_size: int
    split: str = "train"
    seed: int = 0

    def __post_init__(self) -> None:
        if not _is_int(self.batch_size) or self.batch_size < 1:
            raise DataError(f"expected a whole batch size, at least 1, got {self.batch_size!r}")
        if self.batch_size > MOST_ITEMS:
            raise DataError(f"expected a whole batch size, at most {MOST_ITEMS:,}, got {self.batch_size:.3g}")
        if not isinstance(self.split, str):
            raise DataError(f'expected a split\'s name such as "train" or "test", got {self.split!r}')
        if not _is_int(self.seed) or self.seed not in SEEDS:
            raise DataError(f"expected a whole number as seed, below 2**64, got {self.seed!r:.40}")

    @property
    def training(self) -> bool:
        """Return whether the batches are to be endless and shuffled."""
        return self.split == "train"


@dataclass(frozen=True)
class EvaluationRequest:
    """Which metrics are wanted beside the usual ones.

    >>> EvaluationRequest(metrics=("fid",)).take("fid", "kid")
    ('fid',)

    Attributes:
        metrics: their names; usual ones may be among them.
        judge: in whose features pictures are compared, see `zoo.metrics.space_of`; None: the plugin's choice.
        samples: how many samples to draw at most for metrics of drawn samples; None: the plugin's choice.
    """

    metrics: tuple[str, ...] = ()
    judge: Any = None
    samples: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.metrics, str) or not all(isinstance(name, str) for name in self.metrics):
            raise ZooError(f'expected metrics as a list of names such as ["fid"], got {self.metrics!r}')
        if self.samples is not None and (not _is_int(self.samples) or not 1 <= self.samples <= MOST_ITEMS):
            raise ZooError(f"expected a whole number of samples, at least 1, got {self.samples!r}")

    def take(self, *optional: str, usual: Iterable[str] = ()) -> tuple[str, ...]:
        """Return those of the `optional` metrics that are wanted.

        Args:
            *optional: names of metrics that the plugin computes where they are wanted.
            usual: those that it always gives.

        Raises:
            UnknownNameError: a metric is wanted that is neither.
        """
        for name in self.metrics:
            if name not in optional and name not in usual:
                raise unknown_metric(name, [*usual, *optional])
        return tuple(name for name in optional if name in self.metrics)


def unknown_metric(name: str, known: Iterable[str]) -> UnknownNameError:
    """Return the error to raise for a metric that there is not; `known` are those that there are."""
    known = list(known)
    return UnknownNameError(f"no metric {name!r}: the metrics here are {', '.join(known)}.{did_you_mean(name, known)}")


def check_seed(seed: Any) -> None:
    """Raise ZooError for what no generator can be seeded with; None means no seed."""
    if seed is not None and (not _is_int(seed) or seed not in SEEDS):
        raise ZooError(f"expected a whole number as seed, below 2**64, or None, got {seed!r:.40}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _like(name: str, value: Any, default: Any) -> Any:
    """Return `value` if its type fits that of a bool, int or float `default`; else raise."""
    if value is default or not isinstance(default, bool | int | float):
        return value
    if isinstance(default, bool):
        fits = isinstance(value, bool)
    elif isinstance(default, int):
        fits = _is_int(value)
    else:
        fits = _is_int(value) or isinstance(value, float)
    if not fits:
        raise ZooError(f"option {name!r} takes {type(default).__name__} (default {default!r}), got {value!r}")
    return float(value) if type(default) is float else value
