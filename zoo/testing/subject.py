"""The plugin under test: what it implements, its entries, and its models, loaded when a check first needs one."""

from __future__ import annotations

import copy
import functools
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from inspect import isroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.catalog import discovery, registry
from zoo.catalog.entry import EMBEDDED
from zoo.errors import ZooError, did_you_mean
from zoo.loading.resolve import resolve
from zoo.plugin import hooks
from zoo.storage.file_names import MODEL_CONFIGS
from zoo.testing.fresh import Seen, import_in_subprocess

if TYPE_CHECKING:
    from zoo.catalog.entry import Entry
    from zoo.methods.config import Adapter
    from zoo.metrics import Figures
    from zoo.model import Model
    from zoo.samples import Samples

# What only an architecture implements; an architecture needs the first five.
ARCHITECTURE = ("construct", "sample", "loss", "batches", "evaluate")


SIM = "sim"  # as `zoo.testing.strict.NAME`, which imports torch


@dataclass(frozen=True)
class Options:
    """How a plugin is checked.

    A plugin's module may give its own, as `CONFORMANCE = {"sample": {"steps": 2}}`, or as a function that returns such
    a dict if that needs an import.

    Attributes:
        entry: the registry name of the model to check. Default: the one that the plugin carries weights for, else the
            first whose `config` is inline and small, with random weights.
        config: an architecture's configuration, to be checked with random weights.
        folder: the folder of a model to check.
        batch_size: for `batches`.
        data: what `batches` and `evaluate` are given; None: the plugin's own.
        sample: options of `sample` that make it quick, say `{"steps": 2}`.
        unused: suffixes of the parameter paths that `loss` rightly does not use (a critic, a tower of another task).
        adapter: an adapter kind's configuration. Default: what its `adapter_config` makes of the kind's name alone.
        bits: a quantizer's widths. Default: those of 8, 4, 3 and 2 that it takes.
        device: where the models are: "cpu", a GPU, or "sim", the strict accelerator of `zoo.testing.strict`, on which
            tensors left on another device, `.numpy()` and needless waiting are found without a GPU.
        waits: of a model on "sim", how often `sample` may wait for the device in each of its steps, where an algorithm
            needs it (a text that ends by itself).
    """

    entry: str | None = None
    config: Mapping[str, Any] | None = None
    folder: str | Path | None = None
    batch_size: int = 2
    data: Any = None
    sample: Mapping[str, Any] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    adapter: Adapter | None = None
    bits: tuple[int, ...] = ()
    device: str = "cpu"
    waits: int = 0


class Implementation(NamedTuple):
    """One function that a plugin marks as a hook's.

    Attributes:
        hook: the hook's name, which may not exist.
        arguments: those it takes without a default; of a row of a table, all of the hook's.
        wrapper: whether it only wraps the plugin's implementation.
    """

    hook: str
    arguments: tuple[str, ...]
    wrapper: bool


class PluginUnderTest:
    """A plugin under test. Its temporary folders are deleted with it, or when its `with` block ends."""

    def __init__(self, name: str, options: Mapping[str, Any] | None = None) -> None:
        self.name, self._given = name, dict(options or {})
        self._folder: Path | None = None
        self._folders = 0
        self._remembered: dict[str, Any] = {}

    def __enter__(self) -> PluginUnderTest:
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def remembered(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what `make` returned at the first call under this name."""
        if name not in self._remembered:
            self._remembered[name] = make()
        return self._remembered[name]

    def new_folder(self) -> Path:
        """Return a path in a temporary folder at which there is nothing yet."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="zoo-check-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._folders += 1
        return self._folder / str(self._folders)

    @functools.cached_property
    def options(self) -> Options:
        """The options given; where they say nothing, those of `CONFORMANCE` in the plugin's module."""
        own = getattr(self.plugin(), "CONFORMANCE", {})
        own = own() if callable(own) else own
        known = [one.name for one in fields(Options)]
        for name in (*own, *self._given):
            if name not in known:
                raise ZooError(
                    f"no option {name!r} of a check.{did_you_mean(name, known)} There are {', '.join(known)}"
                )
        options = Options(**{**own, **self._given})
        if options.device.partition(":")[0] == SIM:
            from zoo.testing.strict import register

            register()
        return options

    # What it is

    def plugin(self) -> object:
        """Return the plugin that its entry point names, imported, whether or not it can be registered."""
        return discovery.claim(self.name).entry_point().load()

    @property
    def folder(self) -> Path:
        """The folder of the plugin's code, or its file where it is one alone."""
        import inspect

        plugin = self.plugin()
        file = Path(inspect.getfile(plugin if inspect.ismodule(plugin) else type(plugin)))
        return file.parent if file.name == "__init__.py" else file

    def implementations(self) -> tuple[Implementation, ...]:
        """Return what it marks as hooks, those that do not exist included."""
        return tuple(implementations(self.plugin()))

    @functools.cached_property
    def hooks(self) -> tuple[str, ...]:
        """The hooks that it implements, in the contract's order. Loads it."""
        return hooks.implemented(self.name)

    @functools.cached_property
    def kinds(self) -> tuple[str, ...]:
        """What the plugin is, by its hooks: "architecture", "quantizer", "adapter kind" or "observer"."""
        if hooks.observes(self.name):
            return ("observer",)
        if "construct" in self.hooks or not {"quantize", "inject_adapter", "adapter_config"}.intersection(self.hooks):
            return ("architecture",)
        found = [("quantize", "quantizer"), ("inject_adapter", "adapter kind"), ("adapter_config", "adapter kind")]
        return tuple(dict.fromkeys(kind for hook, kind in found if hook in self.hooks))

    @functools.cached_property
    def seen(self) -> Seen:
        """What importing it, and calling its `describe`, brings into a fresh process."""
        return import_in_subprocess(self.name)

    # An architecture's entries and models

    def entries(self) -> tuple[Entry, ...]:
        """Return its registry entries whose configuration can be read offline, resolved."""
        mine = [entry for entry in registry.entries() if entry.plugin == self.name]
        offline = [entry for entry in mine if entry.config or entry.weights == EMBEDDED]
        return tuple(resolve(entry.name, download=False) for entry in offline)

    @functools.cached_property
    def source(self) -> tuple[str, str | None]:
        """(name, weights) with which `zoo.load` gives the model to check."""
        from zoo.testing.random_weights import source

        return source(self)

    def entry(self) -> Entry:
        """Return the entry of the model to check, with its folder."""
        name, weights = self.source
        return resolve(name, weights=weights)

    def load(self, **options: Any) -> Model:
        """Return a model for a check that changes it, on the options' device, in float32."""
        import zoo

        name, weights = self.source
        return zoo.load(
            name, **{"weights": weights, "device": self.options.device, "dtype": "float32", "seed": 0, **options}
        )

    @functools.cached_property
    def on_meta(self) -> dict[str, Model]:
        """Every model whose configuration is known, without weights: in 4 bit, with an adapter "all" on "all"."""
        import zoo

        lora = {"all": zoo.LoRA(rank=1, targets="all")}
        named = {entry.name: None for entry in self.entries()} | {self.source[0]: self.source[1]}
        return {
            name: zoo.load(name, weights=weights, device="meta", bits=4, lora=lora) for name, weights in named.items()
        }

    @functools.cached_property
    def plain(self) -> Model:
        """The model as its checkpoint has it. Must not be changed."""
        return self.load()

    @functools.cached_property
    def adapted(self) -> Model:
        """The model in 4 bit with a new LoRA of rank 2 on every weight. Must not be changed: use `adapted_copy`."""
        import zoo

        return self.load(bits=4, lora=zoo.LoRA(rank=2, targets="all"))

    def adapted_copy(self) -> Model:
        """Return a copy of `adapted`."""
        return copy.deepcopy(self.adapted)

    @functools.cached_property
    def batch(self) -> Any:
        """A batch of the training split."""
        return next(iter(self.batches(self.plain)))

    def batches(self, model: Model, **options: Any) -> Iterator[Any]:
        """Yield batches, of the options' data and size."""
        size = self.options.batch_size
        return iter(model.batches(**{"data": self.options.data, "batch_size": size, **options}))

    def sample(self, n: int, seed: int | None, **more: Any) -> Samples:
        """Return samples of `adapted`, with the options that make them quick."""
        return self.adapted.sample(n, seed=seed, **{**self.options.sample, **more})

    @functools.cached_property
    def samples(self) -> Samples:
        """Two samples of seed 1, kept for the checks that compare with them."""
        return self.sample(2, 1)

    @functools.cached_property
    def samples_again(self) -> tuple[Samples, tuple[str, ...]]:
        """The same drawn again in training mode; and what that changed, which should be nothing."""
        from zoo.testing.compare import watched

        _ = self.samples  # first, because a first call may import a library, and that draws what it likes
        return watched(self.adapted, lambda: self.sample(2, 1))

    @functools.cached_property
    def metrics(self) -> Figures:
        """What `evaluate` returns, kept for the checks that compare with it."""
        return self.adapted.evaluate(self.options.data)

    @functools.cached_property
    def metrics_again(self) -> tuple[Figures, tuple[str, ...]]:
        """The same once more in training mode; and what that changed, which should be nothing."""
        from zoo.testing.compare import watched

        _ = self.metrics
        return watched(self.adapted, lambda: self.adapted.evaluate(self.options.data))


def config_file(folder: Path | None) -> Path:
    """Return the file that holds a folder's configuration."""
    folder = folder or Path()
    return next((path for name in MODEL_CONFIGS if (path := folder / name).is_file()), folder / MODEL_CONFIGS[0])


def implementations(plugin: object) -> Iterator[Implementation]:
    """Yield what a plugin object marks as hooks: decorated functions, and the rows of its table."""
    import inspect

    from zoo.plugin.hookspecs import PROJECT

    for name in dir(plugin):
        function = getattr(plugin, name, None)
        marks = getattr(function, f"{PROJECT}_impl", None) if isroutine(function) else None
        if not isinstance(marks, dict):
            continue
        taken = tuple(
            argument.name
            for argument in inspect.signature(function).parameters.values()  # type: ignore[arg-type]
            if argument.default is argument.empty and argument.kind is argument.POSITIONAL_OR_KEYWORD
        )
        hook = marks.get("specname") or name
        yield Implementation(hook, taken, bool(marks.get("wrapper") or marks.get("hookwrapper")))
