"""`zoo.Model`: a module of any architecture, with methods to sample, evaluate, train, adapt and save it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo.adapters.adapter_set import AdapterSet
from zoo.adapters.mixed_batch import mixed
from zoo.adapters.mixed_samples import drawn, request_for
from zoo.adapters.prepared import PreparedAdapter
from zoo.adapters.unsaved import check_trained
from zoo.adapters.updates import make_updates
from zoo.adapters.verbs import AdapterVerbs
from zoo.bounded.notebook import table
from zoo.catalog.entry import Entry
from zoo.errors import TuningError
from zoo.formats import native, training
from zoo.formats.saved import SavedAdapter
from zoo.hub import saved_adapters
from zoo.hub.verbs import SavingVerbs
from zoo.methods.config import Adapter, as_adapter, check_name
from zoo.methods.new_modules import training_new
from zoo.methods.rows import with_names
from zoo.methods.table_ranks import with_table_ranks
from zoo.plugin import foreign
from zoo.plugin.requests import SampleRequest, check_seed
from zoo.storage.fingerprint import Fingerprint
from zoo.torch_state.modes import evaluating, seeded
from zoo.torch_state.turns import forget_turns
from zoo.tuning.seen import SeenExamples
from zoo.tuning.verbs import TrainingVerbs
from zoo.weights import footprint as measure
from zoo.weights.dense_cache import Cache, caching
from zoo.weights.foreign.weight import only_ordinary
from zoo.weights.scheme import Quantization
from zoo.weights.sharded import shard_like
from zoo.weights.state_dicts import stop_checking
from zoo.weights.walk import TiedGroup, plain_names, tied_groups, unwrapped

if TYPE_CHECKING:
    from zoo.runs.completed import Loaded
    from zoo.runs.record import RunRecord
    from zoo.samples import Samples
    from zoo.tuning.result import TuneResult


class Model(AdapterVerbs, TrainingVerbs, SavingVerbs):
    """A module with its catalogue entry and its adapters, as `zoo.load` and `zoo.wrap` return it.

    Calling the model calls the module. Training is in `TrainingVerbs`, handling of adapters in `AdapterVerbs`, and
    writing in `SavingVerbs`.

    Attributes:
        module: the library's `nn.Module`, to be used as usual.
        entry: the model's entry in the catalogue.
        device: the device of the weights.
        dtype: the compute dtype.
        adapter_set: the adapters, and which of them are active.
        loaded: what `zoo.load` was given; None for a module of the user's own.
    """

    def __init__(
        self,
        module: nn.Module,
        entry: Entry,
        device: torch.device,
        dtype: torch.dtype,
        scheme: Quantization | None = None,
        fingerprint: Fingerprint | None = None,
        groups: list[TiedGroup] | None = None,
    ) -> None:
        self.adapter_set = AdapterSet(module, entry, device, dtype, scheme, fingerprint, groups)
        self.seen = SeenExamples()
        self.loaded: Loaded | None = None

    def __call__(self, *args: Any, adapters: Sequence[Any] | None = None, **kwargs: Any) -> Any:
        """Run the module's forward pass, with the active adapters or, with `adapters`, with some for each sample.

        Args:
            *args: of the module's forward.
            adapters: for each sample of the batch a name, None for the base, a tuple of names, or a dict of names and
                weights. Samples are the rows of every tensor that has as many as `adapters` has entries. Each different
                choice is one run of the module on its samples, so that the results are those of separate calls (a batch
                norm in training takes its statistics from each part). Gradients reach those adapters that are active.
            **kwargs: of the module's forward.

        Raises:
            AdapterError: inputs or outputs have no row for each sample. The active adapters do not change.
        """
        if adapters is None:
            if torch.compiler.is_compiling():  # the caller's own compiled function, which cannot wait
                return self.module(*args, **kwargs)
            with self.adapter_set.turns:
                return self.module(*args, **kwargs)
        return mixed(self, self.adapter_set, adapters, args, kwargs)

    def __repr__(self) -> str:
        bits = f", bits={self.scheme.argument!r}" if self.scheme else ""
        shares = [name if share == 1.0 else f"{share:g} · {name}" for name, share in self.adapter_set.weights.items()]
        active = f", active={', '.join(shares)}" if shares else ""
        kind = type(self.module).__name__
        return f"zoo.Model({self.entry.name!r}, {kind}, {self.device}, {self.dtype}{bits}{active})"

    def _repr_html_(self) -> str:
        size = self.footprint()
        rows = {
            "module": type(self.module).__name__,
            "device": f"{self.device}, {self.dtype}",
            "bits": self.scheme.argument if self.scheme else None,
            "parameters": f"{size.parameters:,}, {size.bytes:,} bytes",
            "adapters": ", ".join(f"{name}{'' if name in self.active else ' (inactive)'}" for name in self.adapters),
        }
        return table(f"zoo.Model {self.entry.name}", rows)

    def train(self, mode: bool = True) -> Model:
        """Set training mode, as `nn.Module.train`."""
        self.module.train(mode)
        return self

    def eval(self) -> Model:
        """Set evaluation mode, in which `zoo.load` returns a model."""
        return self.train(False)

    # State

    @property
    def module(self) -> nn.Module:
        """The library's module."""
        return self.adapter_set.module

    @property
    def entry(self) -> Entry:
        """The model's entry in the catalogue."""
        return self.adapter_set.entry

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.adapter_set.device

    @property
    def dtype(self) -> torch.dtype:
        """The compute dtype."""
        return self.adapter_set.dtype

    @property
    def scheme(self) -> Quantization | None:
        """The quantization of the weights; None for those of the checkpoint."""
        return self.adapter_set.scheme

    @property
    def fingerprint(self) -> str | None:
        """A digest of the base's weights; None on `meta`."""
        return self.adapter_set.fingerprint

    @property
    def records(self) -> dict[str, dict[str, Any]]:
        """The record of each adapter by name: its base, training and metrics, as in its `zoo.json`."""
        return self.adapter_set.records

    def footprint(self) -> measure.Footprint:
        """Return the numbers of parameters and stored bytes, and the shares that are quantized and adapted."""
        return measure.footprint(self.module)

    def weights(self) -> Iterator[measure.WeightInfo]:
        """Yield (name, shape, dtype, bits, adapters) of every weight as it is now, tied ones once."""
        return measure.weights(self.module)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the dense weights as the module uses them now, with active and merged adapters.

        The names are the library's (tied weights under each of theirs, as one tensor), and persistent buffers are
        included, so that the library's module of this configuration can load it.
        """
        return native.state_dict(self.module)

    # Done by the plugin

    def sample(
        self,
        n: int | None = None,
        *,
        seed: int | None = None,
        seeds: Sequence[int] | None = None,
        adapters: Sequence[Any] | None = None,
        cache: Cache = "auto",
        **options: Any,
    ) -> Samples:
        """Return `n` samples.

        Args:
            n: how many; by default 1, or as many as there are seeds or adapters.
            seed: equal seeds give equal samples.
            seeds: one for each sample, which is then what `sample(1, seed=...)` gives, up to the rounding of a batch.
            adapters: for each sample a name, None for the base, a tuple of names, or a dict of names and weights, as in
                a call of the model. Those of equal adapters are drawn together, from `seed`, which is the same for all
                groups. An option that is a list with one value for each sample is cut accordingly.
            cache: the memory for dense forms of quantized and adapted weights, which are then not computed anew at each
                step of a sampler: "auto" (512 MiB at most), "dense" (as much as it takes), None (none), or a size such
                as "2GB". All of it is free again when the samples are there.
            **options: of the architecture; its README lists them.

        Raises:
            UnknownNameError: the architecture has no such option.
            ZooError: an option's value is not valid.
        """
        request = request_for(n, seed, seeds, adapters, options)
        with evaluating(self.module), self.caching(cache):
            return drawn(self, self.adapter_set, request, adapters)

    def stream(
        self, *, seed: int | None = None, stop: Sequence[str] = (), cache: Cache = "auto", **options: Any
    ) -> Iterator[str]:
        """Return the pieces of one text as they come; joined they are the text of `sample(1)`, with the same arguments.

        An architecture that draws whole samples gives a text as one piece. At a text of `stop` it ends, without it.
        """
        from zoo.plugin.streaming import streamed

        return streamed(self, SampleRequest(1, seed, options), self.active_weights, tuple(stop), cache)

    @contextmanager
    def caching(self, cache: Cache = "auto") -> Iterator[None]:
        """Keep dense forms of quantized and adapted weights in the block, for loops of your own without gradients.

        It counts for this thread alone. A weight that changes in the block is computed anew.

        Args:
            cache: as in `sample`.

        Raises:
            ZooError: it cannot be.
        """
        with caching(self.module, cache):
            yield

    def note_metrics(self, data: Any, metrics: dict[str, float]) -> None:
        """Keep an evaluation in the record of the active adapter."""
        training.note_metrics(self.adapter_set, data, metrics)

    def note_tuning(self, data: Any, result: TuneResult) -> None:
        """Add a training run to the records of the active adapters, which it has trained."""
        training.note_tuning(self.adapter_set, data, result)

    def identity(self) -> dict[str, dict[str, Any]]:
        """Return what a training run of this model depends on, beside its settings, and the versions of libraries."""
        return training.identity(self.adapter_set)

    def run_record(self, data: Any, tuning: Mapping[str, Any], main: bool) -> RunRecord:
        """Return what writes a run's `run.toml` and its report."""
        from zoo.runs.record import RunRecord

        return RunRecord(self, data, tuning, main)

    def check_trained(self) -> None:
        """Raise `AdapterError` if there are adapters, and a weight trains that is in none of them."""
        check_trained(self.adapter_set)

    def trainable_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield (name, parameter) of all trainable parameters.

        Raises:
            TuningError: there is none.
        """
        plain = plain_names(self.module)
        found = [(plain(name), one) for name, one in self.module.named_parameters() if one.requires_grad]
        if not found:
            first = "activate an adapter first, model.activate(...)"
            raise TuningError(f"nothing can train: {first if self.adapters else 'add one with lora= or add_adapter'}")
        return iter(found)

    # Adapters

    def prepare_adapter(
        self,
        name: str,
        lora: Any,
        *,
        seed: int | None = None,
        replaces: bool = False,
        groups: list[TiedGroup] | None = None,
    ) -> PreparedAdapter:
        """Do all steps of adding an adapter that can fail, without changing the model.

        Args:
            name: the adapter's name.
            lora: as in `add_adapter`, or what `zoo.hub.saved_adapters.read` returned.
            seed: as in `add_adapter`.
            replaces: whether it will replace the adapter of this name.
            groups: the module's parameters, if they were just listed.

        Raises:
            AdapterError: the adapter or its name is not valid, or does not fit.
        """
        check_name(name)
        check_seed(seed)
        if not replaces:
            self.adapter_set.unknown(name)
        if isinstance(lora, str | os.PathLike | SavedAdapter):
            return saved_adapters.prepare(self.adapter_set, name, lora, groups)
        named = with_names(lora, self.module) if isinstance(lora, Adapter) else lora
        wanted = as_adapter(named, self.entry.targets or "all", self.entry.modules_to_save)
        wanted = training_new(wanted, self.entry.head)
        with self.adapter_set.turns, seeded(seed):
            groups = tied_groups(self.module) if groups is None else groups
            if not only_ordinary(self.module):
                foreign.check_targets(self.module, groups, wanted.targets)
            wanted = with_table_ranks(wanted, groups)
            return PreparedAdapter(name, wanted, make_updates(groups, self.entry, wanted, shard_like), None, groups)

    def add_adapter(self, name: str, lora: Any = 8, *, seed: int | None = None, active: bool = True) -> None:
        """Add an adapter and make it active beside the others, which train as before.

        A new one does not change the outputs before training.

        Args:
            name: the adapter's name.
            lora: a rank, a `zoo.LoRA`, or the place of a saved adapter (a folder, a file, or a Hub reference).
            seed: of the random initialisation.
            active: False leaves it inactive.

        Raises:
            AdapterError: the adapter or its name is not valid, or does not fit; the model is then unchanged.
        """
        self.adapter_set.attach(self.prepare_adapter(name, lora, seed=seed), active)

    def unload(self) -> nn.Module:
        """Turn all weights into plain parameters in full precision, and return the module.

        Merged adapters stay in the weights; others are dropped.
        """
        self.adapter_set.unload()
        inner = unwrapped(self.module)
        for name in ("get_parameter", "save_pretrained"):  # zoo's own, see zoo.loading.load
            inner.__dict__.pop(name, None)
        for root in {self.module, inner}:
            stop_checking(root, root=True)
            forget_turns(root)
        return self.module
