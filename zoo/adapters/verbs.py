"""The verbs of a model that change its adapters: `activate`, `merge`, `swap_adapter` and the like."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from zoo.adapters import combine, merge, swap
from zoo.adapters.adapter_set import AdapterSet
from zoo.adapters.combine import CombineReport
from zoo.adapters.merge import MergeReport
from zoo.adapters.prepared import PreparedAdapter
from zoo.errors import AdapterError
from zoo.methods.config import Adapter
from zoo.methods.quantize_aware import QuantizeAware
from zoo.weights.calibration.outputs import Calibration
from zoo.weights.scheme import Quantization, as_quantization
from zoo.weights.walk import TiedGroup, submodule

QUANTIZED = "quantized"  # the adapter of `tune(quantize=)`


class AdapterVerbs(ABC):
    """The methods of `zoo.Model` for adapters that are attached already.

    Attributes:
        adapter_set: the adapters, and which of them are active.
        calibration: what `calibrate=` found: the error of every weight, and which weights were rounded without data;
            None without it.
    """

    adapter_set: AdapterSet
    calibration: Calibration | None = None

    @abstractmethod
    def prepare_adapter(
        self,
        name: str,
        lora: Any,
        *,
        seed: int | None = None,
        replaces: bool = False,
        groups: list[TiedGroup] | None = None,
    ) -> PreparedAdapter:
        """Do all steps of adding an adapter that can fail, without changing the model."""

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """Every adapter's configuration by name, active or not."""
        return MappingProxyType(self.adapter_set.configs)

    @property
    def active(self) -> tuple[str, ...]:
        """The names of the active adapters, in order; merged ones are part of the base and not among them."""
        return self.adapter_set.active

    @property
    def active_weights(self) -> Mapping[str, float]:
        """The weight of every active adapter, by name, in order."""
        return MappingProxyType(self.adapter_set.weights)

    def activate(self, *names: str, weights: Sequence[float] | None = None) -> None:
        """Make exactly these adapters active (and trainable), in this order.

        Args:
            *names: the adapters.
            weights: one number for each, 1 by default, which scales the adapter's whole effect; any sign. One of weight
                0 has exactly no effect and does not train. Saving an adapter writes it without its weight.

        Raises:
            AdapterError: a name or weight is not valid, or none is named and adapters are merged; nothing has changed
                then.
        """
        self.adapter_set.activate(names, weights)

    def deactivate(self) -> None:
        """Make no adapter active: exactly the base.

        Raises:
            AdapterError: adapters are merged, which `unmerge` takes out; nothing has changed then.
        """
        self.activate()

    def remove_adapter(self, name: str) -> None:
        """Remove an adapter. After the last one the base is trainable again as it was before the first.

        Raises:
            AdapterError: there is no such adapter.
        """
        self.adapter_set.remove(name)

    def swap_adapter(self, name: str, lora: Any, *, seed: int | None = None) -> None:
        """Copy another adapter's values into the tensors of the adapter `name`, so that compiled code stays valid.

        The result is as if it had been loaded afresh, except for dropout, which stays that of `name`.

        Args:
            name: the adapter that is replaced.
            lora: as in `add_adapter`. Its kind must be the same, and its ranks not higher; weights that it does not
                change have no update afterwards.
            seed: as in `add_adapter`.

        Raises:
            AdapterError: the adapter does not fit; nothing has changed then.
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
        """Combine low-rank adapters, with weights, into a new LoRA adapter, which is not active yet.

        A model's weight that one of the adapters does not change counts as zero for it.

        Args:
            name: of the new adapter.
            adapters: name → weight.
            method: "cat" is exactly the weighted sum, of the sum of the ranks; "svd" its best approximation of `rank`;
                "linear" adds factors of equal rank, a rough sum. "ties", "dare_linear", "dare_ties" and
                "magnitude_prune" first drop all but `density` of the values; with "_svd" they work on whole updates,
                not on factors.
            rank: of "svd" and "…_svd"; None for the highest of the adapters.
            density: the share of values that pruning keeps.
            majority_sign: of ties, "total" or "frequency".
            seed: of dare.

        Returns:
            A report with the error against the weighted sum.

        Raises:
            AdapterError: an adapter is not low-rank, or an argument not valid; nothing has changed then.
        """
        options = {"rank": rank, "density": density, "majority_sign": majority_sign, "seed": seed}
        return combine.combine(self.adapter_set, name, adapters, method=method, **options)  # type: ignore[arg-type]

    def train_beside(self, *modules: str) -> None:
        """Let modules train beside the adapters without being part of them, such as a discriminator or a probe.

        `save_adapter` leaves them out, which would otherwise be an error.

        Args:
            *modules: paths in the module.

        Raises:
            AdapterError: there is no such module; nothing has changed then.
        """
        for path in modules:
            try:
                submodule(self.adapter_set.module, path)
            except AttributeError:
                path = ""
            if not path:
                raise AdapterError(f"train_beside: expected paths of modules, got {', '.join(map(repr, modules))}")
        self.adapter_set.buffers.ignored += modules

    def quantize_for_tuning(self, bits: int | Quantization) -> None:
        """Quantize the adapted weights at every use from now on, for `tune(quantize=)`: the adapter "quantized".

        Args:
            bits: 4, 8, or a `zoo.Quantization`.

        Raises:
            AdapterError: nothing is there that could learn beside it, or it is there already and another one.
        """
        scheme = as_quantization(bits)
        if scheme is None or scheme.overrides or scheme.keep or scheme.average is not None:
            raise AdapterError(f"quantize: expected a width such as 4, or a plain zoo.Quantization, got {bits!r:.80}")
        wanted = QuantizeAware(scheme.bits, scheme.scheme, scheme.block_size, scheme.double)
        if self.adapter_set.configs.get(QUANTIZED) == wanted and QUANTIZED in self.active:
            return
        if not self.active:
            raise AdapterError(
                "quantize: the weights are quantized beside what trains: load with lora=8, or with "
                'lora=zoo.Full(targets="all") to train all of them'
            )
        self.adapter_set.attach(self.prepare_adapter(QUANTIZED, wanted))

    def merge(self, *names: str, bits: int | Quantization | None = None) -> MergeReport:
        """Merge adapters into the weights, active ones with their weights, others with weight 1.

        The base is kept as well, so that `unmerge` restores identical bits.

        Args:
            *names: the adapters; default the active ones.
            bits: None is exact: a quantized weight that is changed becomes full precision. 4, 8 or a
                `zoo.Quantization` quantizes changed weights again, which loses some of the effect; how much is
                measured, logged as a warning and returned.

        Returns:
            A report with the changed weights and the error.

        Raises:
            ZooError: a name or `bits` is not valid; nothing is merged then.
        """
        return merge.merge(self.adapter_set, names, bits)

    def unmerge(self) -> None:
        """Undo every merge, bit for bit; adapters that were active before are active again."""
        self.adapter_set.unmerge()
