"""The verbs of a model that train it: `loss`, `batches` and `tune`."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch

from zoo.compat import renamed_arguments
from zoo.data.batches import on_device
from zoo.data.report import SEEN, collecting
from zoo.data.spec import as_data
from zoo.plugin import hooks
from zoo.plugin.requests import BatchRequest, EvaluationRequest
from zoo.torch_state.modes import evaluating
from zoo.tuning.examples import without_gradients
from zoo.tuning.options import known_options
from zoo.tuning.progress import note
from zoo.tuning.seen import SeenExamples
from zoo.tuning.settings import OLD_NAMES
from zoo.tuning.teacher import SHARE, Taught
from zoo.weights.dense_cache import Cache, caching

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo.catalog.entry import Entry
    from zoo.metrics.figures import Figures
    from zoo.tuning.result import TuneResult


class TrainingVerbs(ABC):
    """What `zoo.Model` can do to train; the rest of a model is abstract here.

    Attributes:
        seen: what the model was trained on.
        tuned: whether a run has trained it since it was loaded.
    """

    seen: SeenExamples
    tuned: bool = False

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """The library's own module."""

    @property
    @abstractmethod
    def entry(self) -> Entry:
        """Where the module came from."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the weights are."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The type that the module computes in."""

    @abstractmethod
    def trainable_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield (name, parameter) of all that trains now."""

    @abstractmethod
    def train(self, mode: bool = True) -> Any:
        """Set training mode."""

    @abstractmethod
    def identity(self) -> dict[str, dict[str, Any]]:
        """Return what a training run depends on beside its settings."""

    @abstractmethod
    def quantize_for_tuning(self, bits: Any) -> None:
        """Quantize the adapted weights at every use from now on."""

    @abstractmethod
    def check_trained(self) -> None:
        """Raise `AdapterError` if there are adapters, and a weight trains that is in none of them."""

    @abstractmethod
    def note_tuning(self, data: Any, result: TuneResult) -> None:
        """Keep a record of a finished run."""

    @abstractmethod
    def note_metrics(self, data: Any, metrics: dict[str, float]) -> None:
        """Keep a record of an evaluation."""

    def loss(self, batch: Any) -> Tensor:
        """Return the training loss of one batch of `batches`, which is moved to the model's device: a scalar."""
        return hooks.loss(self, on_device(batch, self.device))

    def count(self, batch: Any) -> float:
        """Return what the loss of one batch is the mean of, such as tokens; 1 where all batches count alike."""
        return hooks.count(self, batch)

    def batches(
        self,
        data: Any = None,
        *,
        batch_size: int,
        split: str = "train",
        seed: int = 0,
        columns: Mapping[str, str] | None = None,
    ) -> Iterable[Any]:
        """Return batches for `loss`.

        Args:
            data: None (the plugin's own), a name, a folder, a file, a dataset, tensors, or a `zoo.Data` around these.
            batch_size: items in a batch.
            split: "train" is endless and shuffled by `seed`; any other is one pass in fixed order.
            seed: of the order, and of all that the plugin draws with the batches.
            columns: what a column is → its name in the data, `{"text": "review"}`; see `zoo.Data`.
        """
        data = data if columns is None else as_data(data, columns=columns)
        return hooks.batches(self, without_gradients(data), BatchRequest(batch_size, split, seed))

    def evaluate(
        self,
        data: Any = None,
        *,
        columns: Mapping[str, str] | None = None,
        split: str | None = None,
        metrics: Sequence[str] = (),
        judge: Any = None,
        samples: int | None = None,
        cache: Cache = "auto",
    ) -> Figures:
        """Return metrics on held-out data, the main one first; the same at every call.

        Of data without splits of their own a tenth is held out, by the same rule as in `tune`, and only that tenth is
        evaluated. Where some of it was trained on nevertheless, "seen_in_training" is its share.

        The result is a dict of floats that also has `.samples`, the number of examples, and `.intervals`, the 95 %
        bootstrap interval of each figure over them; `zoo.metrics.paired` compares two of them.

        Args:
            data: as `batches` takes it.
            columns: as in `batches`.
            split: the split to evaluate on, "validation" say, or "all" for all that there is.
            metrics: more of them than the usual, `["fid", "kid"]` say, for which the plugin may take longer.
            judge: in whose features pictures are compared: "pixels", "inception", a loaded image classifier or a
                module, see `zoo.metrics.space_of`.
            samples: how many samples to draw at most where a metric is of drawn ones.
            cache: the memory for dense forms of quantized and adapted weights, as in `sample`.

        Raises:
            DataError: the data cannot be used.
            UnknownNameError: the model has no such metric.
        """
        if columns is not None or split is not None:
            data = as_data(data, columns=columns, split=split)
        request = EvaluationRequest((metrics,) if isinstance(metrics, str) else tuple(metrics), judge, samples)
        kept = caching(self.module, cache)
        with torch.no_grad(), evaluating(self.module), kept, collecting() as reports:
            figures = hooks.evaluate(self, data, request)
        share = self.seen.share(reports)
        if share:
            figures[SEEN] = share
            figures.missing[SEEN] = "it is the share of all of them"
            note(f"{share:.0%} of what was evaluated on was trained on: this is no test of new data", quiet=False)
        self.note_metrics(data, figures)
        return figures

    @renamed_arguments(OLD_NAMES)
    @known_options
    def tune(
        self,
        data: Any = None,
        *,
        steps: int | None = None,
        minutes: float | None = None,
        epochs: float | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        out: str | os.PathLike[str] | None = None,
        resume: bool = False,
        seed: int = 0,
        warmup: float | None = None,
        schedule: str | None = None,
        rates: str | None = None,
        extended: Sequence[float] = (),
        grad_clip: float | Literal["default"] | None = "default",
        optimizer: Any = None,
        optimizer_options: Mapping[str, Any] | None = None,
        weight_decay: float | None = None,
        betas: tuple[float, float] | None = None,
        gradient_accumulation_steps: int | None = None,
        ema_decay: float | None = None,
        precision: str | None = None,
        gradient_checkpointing: bool = False,
        quantize: Any = None,
        teacher: Any = None,
        teacher_share: float = SHARE,
        columns: Mapping[str, str] | None = None,
        eval_every: int | None = None,
        eval_data: Any = None,
        metric: str | None = None,
        patience: int | None = None,
        keep_best: bool = True,
        save_every: int = 100,
        keep: int = 2,
        log_every: int = 10,
        quiet: bool = False,
        on_step: Callable[[int, float], None] | None = None,
        callbacks: Sequence[Any] = (),
        trackers: Sequence[Any] = (),
        project: str = "zoo",
        run_name: str | None = None,
        report: bool = True,
    ) -> TuneResult:
        """Train the active adapters, or, in a model with neither adapters nor quantized weights, everything.

        Where an argument is None, the entry's table `pretrain` counts for a model with random weights
        (`zoo.load(name, weights="random", seed=0)`), then what the plugin prefers (its hook `tuning`), then the default
        that is named here.

        Args:
            data: what to train on: None (the plugin's own), a name, a folder, a file, a dataset, tensors, or a
                `zoo.Data` around these. What is taken of them and what is left is said before the first step.
            steps: optimizer steps, each over `gradient_accumulation_steps` batches of `batch_size` in every process.
            minutes: how long to train, instead of `steps`. The learning rate then follows the clock, so that a run
                ends on time on a fast and on a slow machine alike; two runs with one seed differ a little. Reading the
                data is not counted.
            epochs: passes over the data, instead of `steps`; may be a fraction.
            batch_size: items in a batch, default 16.
            lr: peak learning rate: how far (root mean square) the first step moves each weight. Default 1e-3, less in
                proportion for weights of more than 256 inputs (the median), 6e-5 for 4,096.
            out: folder for checkpoints, the run's `run.toml` and its report, or None for none. One that holds another
                run's checkpoints is an error.
            resume: go on from the checkpoint in `out`. On the CPU the losses and weights of a run of `steps` are those
                of a run without the pause, bit for bit. Where there is none yet, the run starts afresh and says so, so
                that the same command can be given again and again. A finished run with more `steps` or `minutes` than
                it had goes on with the learning rate of a run of so many.
            seed: of the batches and of everything random in the loss. The caller's generators are put back afterwards.
            warmup: linear warm-up, as a share of the steps or minutes or (from 1) as a number of steps, default 0.05.
            schedule: after the warm-up: "cosine", half a cosine to 0 (the default), or "wsd", constant and then linear
                to 0 over the last third.
            rates: "matched", the default: each factor of an adapter has its own multiple of `lr`, so that the first
                step moves every weight by `lr` (root mean square), whatever the kind, the rank and the scale of the
                adapter. "plain": `lr` for all; the default, and all there is beside LoRA+, of optimizers whose steps
                are as large as gradients. "lora+16": 16 times `lr` for the factors that start at zero (LoRA+).
            extended: to do again what an extended run did: the budgets that it had before, `[40]` with steps=60. Up to
                each, the learning rate is that of a run of so many.
            grad_clip: largest norm of the gradient, default 1; None for no limit.
            optimizer: "adamw", the default, or another of torch ("adam", "nadam", "adamax", "adafactor", "sgd", …) or
                bitsandbytes ("adamw8bit", "lion8bit", "ademamix8bit", "paged_adamw8bit", …) by name; a class of
                `torch.optim.Optimizer`; or a function that makes one, called with groups of parameters and `lr`. It
                takes a few steps on the device before anything else happens, which show whether `rates` can be matched.
            optimizer_options: of the optimizer's own, `{"momentum": 0.9}`.
            weight_decay: as the optimizer understands it (AdamW: decoupled), on parameters of two or more dimensions.
                It pulls the product of low-rank factors to zero, therefore the default is 0.
            betas: the optimizer's, if it has some; default AdamW's (0.9, 0.999), or its own.
            gradient_accumulation_steps: batches in one step, default 1. They count as in one large batch.
            ema_decay: decay of a moving average of what trains, which takes its place after the last step, for
                objectives that never settle (GANs): 0.99 to 0.999. 0, the default: none. It costs the memory of what
                trains once more.
            quantize: train for this precision (`bits=` of `zoo.load`: 4, 8, a `zoo.Quantization`): the adapted weights
                are quantized at every use, and gradients pass straight through. The adapter "quantized" then stays
                active, and `model.merge()` stores the weights in exactly the form that was trained.
            teacher: another `zoo.Model` to learn from (distillation): what both modules put out is compared, by the
                plugin's hook `distill` or by zoo.
            teacher_share: how much the teacher counts in the loss, from 0 to 1; the rest is the model's own loss.
            precision: "no", "bf16" or "fp16" autocast; None: what accelerate is set to, or else "no".
            gradient_checkpointing: compute activations again in the backward pass instead of keeping them: less memory,
                more time, exactly the same gradients. By the library's own switch, or of the blocks that repeat.
            columns: what a column is → its name in the data, `{"text": "review", "label": "stars"}`.
            eval_every: steps between evaluations on held-out data, of which there is one after the last step too.
            eval_data: what to evaluate on; None: what `data` hold out.
            metric: the one of the metrics that decides which evaluation is the best; None: the first. Of accuracies,
                F1 and their like (`zoo.tuning.evaluation.RISING`) more is better, of all others less.
            patience: evaluations without a better one after which the run stops; None: it does not.
            keep_best: with `eval_every`, whether the weights are in the end those of the best evaluation, which are in
                `<out>/best-<step>` too, and not the last ones.
            save_every: steps between checkpoints; the last step has one in any case.
            keep: how many checkpoints stay, the newest ones; with the one before it, a damaged last one loses little.
            log_every: steps between lines where stderr is no terminal; on one there is a progress bar.
            quiet: show nothing.
            on_step: called with (steps done, loss) after each step. What it draws does not change the run.
            callbacks: objects with some of the methods of `zoo.Callback`; one of them may stop the run.
            trackers: names of accelerate's trackers ("tensorboard", "wandb", "mlflow", …, "all" that are installed), or
                objects of `accelerate.tracking.GeneralTracker`. They get the settings, the loss and learning rate of
                each step, and the figures of evaluations. Those that write files write into `<out>/logs`.
            project: what trackers call the project.
            run_name: what they call the run; default the name of `out`.
            report: with `out`, whether to write `report.html` there, with samples from before and after.

        Raises:
            UnknownNameError: there is no such option.
            AdapterError: a weight trains beside the adapters, in none of them, so that no file would hold it.
            TuningError: a setting cannot be, nothing can train, the loss or the gradient is not finite (the weights are
                then those before that step, and the last checkpoint stays), or the checkpoint is of another run.
            DataError: the data cannot be used, or the batches ended.
            OutputError, CheckpointError: a checkpoint cannot be written or read.
            KeyboardInterrupt: Ctrl-C. The last whole step is in a checkpoint then, and a note says how to go on.
            SystemExit: SIGTERM or SIGHUP, with the exit code 143 or 129; the same holds.
        """
        arguments = dict(locals())
        from zoo.tuning.defaults import CHOSEN, chosen
        from zoo.tuning.loop import tune

        wanted = chosen(self.entry, {name: arguments[name] for name in CHOSEN}, self.device)
        if grad_clip != "default":
            wanted["grad_clip"] = grad_clip
        own_data, own_minutes = wanted.pop("data", None), wanted.pop("minutes", None)
        data = own_data if data is None else data
        data = data if columns is None else as_data(data, columns=columns)
        subject: Any = self if teacher is None else Taught(self, teacher, teacher_share)
        if quantize is not None:
            self.quantize_for_tuning(quantize)
        self.check_trained()
        used = {"self", "data", "columns", "quantize", "teacher", "teacher_share", "grad_clip", *CHOSEN}
        others = {name: value for name, value in arguments.items() if name not in used}
        if steps is minutes is epochs is None:
            others["minutes"] = own_minutes
        result: TuneResult = tune(subject, data, **others, **wanted)
        self.tuned = True
        self.seen.add(result.reports)
        self.check_trained()
        self.note_tuning(data, result)
        return result
