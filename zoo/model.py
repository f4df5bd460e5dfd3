"""`zoo.Model`: a module of any architecture with the verbs that all of them share."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo.adapters import combine, merge, swap
from zoo.adapters.adapter_set import AdapterSet, PreparedAdapter
from zoo.adapters.combine import CombineReport
from zoo.adapters.merge import MergeReport
from zoo.adapters.mixed_batch import mixed
from zoo.adapters.updates import make_updates
from zoo.catalog.entry import Entry
from zoo.errors import AdapterError, TuningError
from zoo.formats import manifest, native, saved
from zoo.hub.adapters import resolve_path
from zoo.methods.config import Adapter, as_adapter, check_name
from zoo.plugin import hooks
from zoo.plugin.requests import SampleRequest
from zoo.torch_state.modes import evaluating, seeded
from zoo.tuning.verbs import TrainingVerbs
from zoo.weights import footprint as measure
from zoo.weights.scheme import Quantization
from zoo.weights.walk import TiedGroup, tied_groups

if TYPE_CHECKING:
    from zoo.hub.publish import PushResult
    from zoo.samples import Samples
    from zoo.tuning.result import TuneResult


class Model(TrainingVerbs):
    """A module, the entry it came from, and what can be done with both. Made by `zoo.load` and `zoo.wrap`.

    module: the library's own `nn.Module`; use it as ever. entry: what the name stood for. device, dtype: where the
    module lies and the type it computes in. adapter_set: the adapters and which of them apply.
    """

    def __init__(
        self,
        module: nn.Module,
        entry: Entry,
        device: torch.device,
        dtype: torch.dtype,
        scheme: Quantization | None = None,
        fingerprint: str | None = None,
        groups: list[TiedGroup] | None = None,
    ) -> None:
        self.adapter_set = AdapterSet(module, entry, device, dtype, scheme, fingerprint, groups)

    def __call__(self, *args: Any, adapters: Sequence[Any] | None = None, **kwargs: Any) -> Any:
        """The module's own forward.

        adapters: what each sample of the batch uses instead of what is active: a name, None for the base, a tuple of
        names, or a dict of names and weights. Samples are the rows of every tensor that has as many as `adapters`
        has entries. Each different choice is one run of the module on its samples, so that all is as in separate calls
        (a batch norm in training takes its statistics from each part). Gradients reach the active ones of the adapters.
        Raises `AdapterError` where inputs or outputs have no row for each sample; what is active does not change.
        """
        if adapters is None:
            return self.module(*args, **kwargs)
        return mixed(self, self.adapter_set, adapters, args, kwargs)

    def __repr__(self) -> str:
        bits = f", bits={self.scheme.bits}" if self.scheme else ""
        shares = [name if share == 1.0 else f"{share:g} · {name}" for name, share in self.adapter_set.weights.items()]
        active = f", active={', '.join(shares)}" if shares else ""
        kind = type(self.module).__name__
        return f"zoo.Model({self.entry.name!r}, {kind}, {self.device}, {self.dtype}{bits}{active})"

    def train(self, mode: bool = True) -> Model:
        """Training mode, as of `nn.Module.train`."""
        self.module.train(mode)
        return self

    def eval(self) -> Model:
        """Evaluation mode; how a model comes from `zoo.load`."""
        return self.train(False)

    # What it is

    @property
    def module(self) -> nn.Module:
        """The library's own module."""
        return self.adapter_set.module

    @property
    def entry(self) -> Entry:
        """Where the module came from."""
        return self.adapter_set.entry

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.adapter_set.device

    @property
    def dtype(self) -> torch.dtype:
        """The type that the module computes in."""
        return self.adapter_set.dtype

    @property
    def scheme(self) -> Quantization | None:
        """How the weights are quantized, None for as the checkpoint had them."""
        return self.adapter_set.scheme

    @property
    def fingerprint(self) -> str | None:
        """A digest of the base's weights; None on `meta`."""
        return self.adapter_set.fingerprint

    @property
    def records(self) -> dict[str, dict[str, Any]]:
        """How each adapter was made, as its `zoo.json` says it, by name."""
        return self.adapter_set.records

    def footprint(self) -> measure.Footprint:
        """Parameters, stored bytes, and the shares that are quantized and adapted."""
        return measure.footprint(self.module)

    def weights(self) -> Iterator[measure.WeightInfo]:
        """What every weight is now: (name, shape, dtype, bits, adapters), tied ones once."""
        return measure.weights(self.module)

    def state_dict(self) -> dict[str, Tensor]:
        """The weights as the module uses them now, dense, active and merged adapters included.

        Under the library's own names (tied weights under each of theirs, as one tensor), with persistent buffers;
        what the library's own module of this configuration loads.
        """
        return native.state_dict(self.module)

    # What the plugin can do

    def sample(self, n: int = 1, *, seed: int | None = None, **options: Any) -> Samples:
        """`n` samples; equal seeds give equal samples. The options are the architecture's own."""
        return hooks.draw(self, SampleRequest(n, seed, options))

    def evaluate(self, data: Any = None) -> dict[str, float]:
        """Figures on held-out data, the main one first; the same at every call."""
        with torch.no_grad(), evaluating(self.module):
            figures = hooks.evaluate(self, data)
        manifest.note_metrics(self.adapter_set, data, figures)
        return figures

    def note_tuning(self, data: Any, result: TuneResult) -> None:
        """Add a finished run to the records of the active adapters, which it has trained."""
        manifest.note_tuning(self.adapter_set, data, result)

    def trainable_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(name, parameter) of all that trains now. Raises `TuningError` where nothing can."""
        found = [(name, parameter) for name, parameter in self.module.named_parameters() if parameter.requires_grad]
        if not found:
            first = "activate an adapter first, model.activate(...)"
            raise TuningError(f"nothing can train: {first if self.adapters else 'add one with lora= or add_adapter'}")
        return iter(found)

    # Adapters

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """Every adapter's configuration by name, active or not."""
        return MappingProxyType(self.adapter_set.configs)

    @property
    def active(self) -> tuple[str, ...]:
        """The names of the adapters that apply now, in order; merged ones are part of the base and not named."""
        return self.adapter_set.active

    @property
    def active_weights(self) -> Mapping[str, float]:
        """The weight of every active adapter, by name, in order."""
        return MappingProxyType(self.adapter_set.weights)

    def prepare_adapter(
        self,
        name: str,
        lora: Any,
        *,
        seed: int | None = None,
        replaces: bool = False,
        groups: list[TiedGroup] | None = None,
    ) -> PreparedAdapter:
        """Do everything about an adapter that can fail, without changing the model.

        replaces: it will take the place of the one of this name. groups: the module's parameters, where a walk has just
        been.
        """
        check_name(name)
        if name in self.adapter_set.configs and not replaces:
            raise AdapterError(f"there is an adapter {name!r} already: remove it first, or choose another name")
        if isinstance(lora, str | os.PathLike):
            folder = resolve_path(lora)
            restored = saved.restore(self.adapter_set, folder)
            return PreparedAdapter(name, *restored, manifest.record(folder), groups)
        wanted = as_adapter(lora, self.entry.targets or "all")
        groups = tied_groups(self.module) if groups is None else groups
        with nullcontext() if seed is None else seeded(seed, self.device):
            return PreparedAdapter(name, wanted, make_updates(groups, self.entry, wanted), None, groups)

    def add_adapter(self, name: str, lora: Any = 8, *, seed: int | None = None) -> None:
        """Add an adapter, which applies at once beside those that are active: a new one changes nothing yet.

        lora: a rank, a `zoo.LoRA`, or where a saved adapter lies. Raises `AdapterError`; the model is then as it
        was.
        """
        self.adapter_set.attach(self.prepare_adapter(name, lora, seed=seed))

    def swap_adapter(self, name: str, lora: Any, *, seed: int | None = None) -> None:
        """Put another adapter's values into the tensors of the adapter `name`: compiled code is not compiled again.

        lora: as in `add_adapter`. Its kind must be the same and its ranks no higher than those that are there; what
        it does not change does nothing afterwards. It is as if loaded afresh but for dropout, which stays the slot's.
        Raises `AdapterError` for one that does not fit; nothing has changed then.
        """
        self.adapter_set.unmerged(name)
        swap.swap(self.adapter_set, self.prepare_adapter(name, lora, seed=seed, replaces=True))

    def combine_adapters(
        self,
        name: str,
        adapters: Mapping[str, float],
        method: str = "cat",
        *,
        rank: int | None = None,
        density: float | None = None,
        majority_sign: str = "total",
        seed: int | None = None,
    ) -> CombineReport:
        """Make a new LoRA adapter, not active yet, of others with weights; what it is close to is in the report.

        method: "cat" is the weighted sum, exactly, of the ranks' sum; "svd" its best approximation of `rank` (None:
        the highest there is); "linear" adds factors of equal rank, a rough sum. "ties", "dare_linear", "dare_ties" and
        "magnitude_prune" drop all but `density` of the values first; with "_svd" they work on whole updates, not on
        factors. majority_sign: of ties, "total" or "frequency". seed: of dare. A weight that one of the adapters leaves
        alone counts as zero. Raises `AdapterError`, also for kinds that are not low-rank; nothing has changed then.
        """
        options = {"rank": rank, "density": density, "majority_sign": majority_sign, "seed": seed}
        return combine.combine(self.adapter_set, name, adapters, method=method, **options)  # type: ignore[arg-type]

    def activate(self, *names: str, weights: Sequence[float] | None = None) -> None:
        """Let exactly these adapters apply (and train), in this order.

        weights: one number for each, 1 by default, which scales the adapter's whole effect; any sign. One of weight 0
        does exactly nothing and does not train. Saving an adapter writes it as it is, without its weight.
        """
        self.adapter_set.activate(names, weights)

    def deactivate(self) -> None:
        """Let no adapter apply: the base as it was, exactly."""
        self.activate()

    def remove_adapter(self, name: str) -> None:
        """Take an adapter away. After the last one the base trains again as it did before the first."""
        self.adapter_set.remove(name)

    def merge(self, *names: str, bits: int | Quantization | None = None) -> MergeReport:
        """Fold adapters (default: the active ones) into the weights, active ones with their weights, others whole.

        bits: None is exact: a quantized weight that takes a delta becomes full precision. 4, 8 or a
        `zoo.Quantization` quantizes the weights that take one again, which loses some of it; how much is measured,
        logged as a warning and returned. The base is kept beside both, so that `unmerge` comes back to the identical
        bits. Raises a `ZooError`; nothing is merged then.
        """
        return merge.merge(self.adapter_set, names, bits)

    def unmerge(self) -> None:
        """Take every merged adapter out again, bit for bit; those that were active before are active again."""
        self.adapter_set.unmerge()

    def unload(self) -> nn.Module:
        """Plain parameters everywhere, and the module itself: merged adapters stay, unmerged ones are dropped.

        Quantized weights become full precision.
        """
        self.adapter_set.unload()
        for name in ("get_parameter", "save_pretrained"):  # zoo's own, see zoo.loading.load
            self.module.__dict__.pop(name, None)
        return self.module

    def save_adapter(self, folder: str | os.PathLike[str], name: str | None = None) -> Path:
        """Write one adapter in PEFT's format; returns the folder. Without a name: the only one, or all of several.

        Of several, "default" is written into the folder and each other one into a folder of its name in it, as PEFT
        does. Raises `OutputError` where the folder cannot be written; what was there is then as it was.
        """
        if name is None:
            if not self.adapters:
                raise AdapterError("there is no adapter to save: add one with lora= or add_adapter")
            if len(self.adapters) > 1:
                return saved.save_all(self.adapter_set, Path(folder))
            name = next(iter(self.adapters))
        self.adapter_set.known(name)
        return saved.save(self.adapter_set, Path(folder), name)

    def push(
        self,
        repo_id: str,
        name: str | None = None,
        *,
        private: bool = False,
        branch: str | None = None,
        message: str | None = None,
        samples: Samples | None = None,
    ) -> PushResult:
        """Push an adapter (default: all of them) with a model card and samples to the Hub, in one commit.

        repo_id: `owner/name`, made where it is missing; files there that are not ours stay. One adapter lies at the
        root, several in a folder each. private: of a repository that is made. branch: default main, made where it is
        missing. samples: what the card shows instead of samples drawn for it.

        Raises `HubError` where the Hub refuses or cannot be reached. A push that is repeated makes no second commit.
        """
        from zoo.hub.push import push

        return push(
            self, self.adapter_set, repo_id, name, private=private, branch=branch, message=message, samples=samples
        )

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the model in its library's native format, full precision, active and merged adapters included.

        Other files in the folder stay. Raises `OutputError` where the folder cannot be written, or holds weights that
        would be taken for the model's; what was there is then as it was.
        """
        return native.save(self, Path(folder))
