"""The verbs of a model that write it or its adapters: `save`, `save_adapter`, `export` and `push`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from zoo.adapters.adapter_set import AdapterSet
from zoo.errors import AdapterError
from zoo.formats import native, saved
from zoo.plugin.contract import LoadedModel

if TYPE_CHECKING:
    from zoo.formats.exported import Exported
    from zoo.hub.publish import PushResult
    from zoo.samples import Samples


class Writable(LoadedModel, Protocol):
    """A model as its writing verbs need it."""

    @property
    def adapter_set(self) -> AdapterSet:
        """Its adapters."""


class SavingVerbs:
    """The methods of `zoo.Model` that write."""

    def save_adapter(
        self: Writable,
        folder: str | os.PathLike[str],
        name: str | None = None,
        *,
        format: str = "peft",
        prefix: str | None = None,
    ) -> Path:
        """Write adapters in PEFT's format or another one, and return the folder.

        Args:
            folder: where to. Of several adapters, "default" is written into it and each other one into a subfolder of
                its name, as PEFT does.
            name: of one adapter; default all of them.
            format: "peft"; "diffusers" (`load_lora_adapter`, pipelines' `load_lora_weights`); "kohya" (also LyCORIS).
            prefix: what keys of the last two begin with; default what files for a pipeline with such a model have.

        Raises:
            AdapterError: there is no such adapter, or the format has no place for a part of it, which is named.
            OutputError: the folder cannot be written; its content is then unchanged.
        """
        if name is None:
            if not self.adapter_set.configs:
                raise AdapterError("there is no adapter to save: add one with lora= or add_adapter")
            if len(self.adapter_set.configs) > 1:
                with self.adapter_set.turns:
                    return saved.save_all(self.adapter_set, Path(folder), format, prefix)
            name = next(iter(self.adapter_set.configs))
        with self.adapter_set.turns:
            self.adapter_set.known(name)
            return saved.save(self.adapter_set, Path(folder), name, format, prefix)

    def push(
        self: Writable,
        repo_id: str,
        name: str | None = None,
        *,
        whole: bool = False,
        packed: bool = False,
        private: bool = False,
        branch: str | None = None,
        message: str | None = None,
        samples: Samples | None = None,
    ) -> PushResult:
        """Push an adapter (default: all of them) with a model card and samples to the Hub, in one commit.

        Repeating a push makes no second commit.

        Args:
            repo_id: `owner/name`, created if it is missing; other files in it stay. One adapter is at its root,
                several in a folder each.
            name: of one adapter; default all of them.
            whole: push the model itself instead, active and merged adapters included, as `save` writes it.
            packed: with `whole`, quantized weights as they are in memory; adapters have to be merged first.
            private: whether a new repository is private.
            branch: default main; created if it is missing.
            message: the commit's message.
            samples: for the card; default samples are drawn.

        Raises:
            AdapterError: there is no such adapter.
            OutputError: the whole model cannot be written.
            HubError: the Hub refuses or cannot be reached.
        """
        if whole or packed:
            if name is not None or not whole:
                wrong = f"name={name!r} is of an adapter" if name is not None else "packed=True is of a whole model"
                raise AdapterError(f"{wrong}, and whole={whole}: give one or the other")
            from zoo.hub.whole import push_model

            more = {"private": private, "branch": branch, "message": message, "samples": samples}
            with self.adapter_set.turns:
                return push_model(self, self.adapter_set, repo_id, packed=packed, **more)  # type: ignore[arg-type]
        from zoo.hub.push import push

        return push(
            self, self.adapter_set, repo_id, name, private=private, branch=branch, message=message, samples=samples
        )

    def save(self: Writable, folder: str | os.PathLike[str], *, packed: bool = False, digests: bool = False) -> Path:
        """Write the model in its library's native format, full precision, active and merged adapters included.

        Other files in the folder stay.

        Args:
            folder: where to.
            packed: write the weights as they are in memory instead, quantized ones with their codes and scales, merged
                adapters included, for `zoo.load(folder)`; transformers loads the folder too if it is a model of its own
                of which only linear layers are in nf4 or fp4.
            digests: write SHA256SUMS too, which `zoo.load` verifies; one that is there already is always renewed.

        Raises:
            OutputError: the folder cannot be written, or holds weights that would be taken for the model's; what was
                there is then as it was. With `packed`: an adapter is active, or a weight's form cannot be written.
        """
        with self.adapter_set.turns:
            return native.save(self, Path(folder), digests, self.adapter_set if packed else None)

    def export(
        self: Writable,
        path: str | os.PathLike[str],
        format: str = "native",
        *,
        inputs: Any = None,
        tolerance: float | None = None,
        converter: str | None = None,
    ) -> Exported:
        """Write the model as other programs take it, active and merged adapters included.

        Args:
            path: where to: a folder for "native" and "packed", a file for the others.
            format: "native" and "packed" as `save` writes them; "onnx", which needs the extra `export`; "torch", a
                `.pt2` of torch.export. These two have one call of the module, in float32, which the plugin says.
                "gguf" is llama.cpp's file, in the model's dtype, which llama.cpp's own converter writes.
            inputs: of that call, instead: a tensor, a tuple of them, or a dict by the names of the module's arguments.
            tolerance: how far the file's outputs on new inputs may be from the model's, as a share of an output's
                largest value; default 1e-4. A GGUF file is read back by transformers for that, where that can.
            converter: for "gguf": the command or file of Python that converts; default: the one that is installed.

        Raises:
            OutputError: the model has no form in this format, the file's outputs are other ones, or it cannot be
                written; there is no file then.
        """
        from zoo.formats.exported import export

        with self.adapter_set.turns:
            return export(self, self.adapter_set, Path(path), format, inputs, tolerance, converter)
