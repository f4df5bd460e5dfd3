"""A model's call as a graph of operations, in a file that needs neither zoo nor the model's library: ONNX, torch's own.

Every file is run on inputs that it was not made with before it gets its name, and compared with the model.
"""

from __future__ import annotations

import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo.errors import OutputError, ZooError, one_line
from zoo.plugin.forward_pass import ForwardPass

ONNX, TORCH = "onnx", "torch"
LARGEST = 2_000_000_000  # bytes of an ONNX file: what its format can number
MISSING = "exporting to ONNX needs the packages onnx, onnxscript and onnxruntime: pip install 'adapter-zoo[export]'"
Sizes = dict[str, tuple[int | None, ...]]


class Graph(NamedTuple):
    """What a written file takes and gives.

    Attributes:
        inputs: the sizes of each input by name; None for one that is free.
        outputs: the outputs' names.
    """

    inputs: Sizes
    outputs: tuple[str, ...]


class _Call(nn.Module):
    """A module whose forward is a `ForwardPass`."""

    def __init__(self, module: nn.Module, call: ForwardPass) -> None:
        super().__init__()
        self.module = module

        def forward(*args: Tensor, **kwargs: Tensor) -> dict[str, Tensor]:
            return call(module, signature.bind(*args, **kwargs).arguments)

        # torch.export reads the inputs' names off it, and its guards know none of a **.
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        signature = inspect.Signature([inspect.Parameter(name, kind) for name in call.inputs])
        forward.__signature__ = signature  # type: ignore[attr-defined]
        self.forward = forward


def write(module: nn.Module, calls: tuple[ForwardPass, ForwardPass], path: Path, format: str) -> Graph:
    """Write the file of a module whose weights are plain parameters on the CPU.

    Args:
        module: the module, in evaluation mode.
        calls: two calls of it; sizes that differ between them are left free, where the module lets them be.
        path: the file, which does not exist.
        format: "onnx" or "torch".

    Raises:
        OutputError: the module cannot be written so.
    """
    if format == ONNX:
        _check_onnx(module)
    call, other = calls
    free = {
        name: {
            place: torch.export.Dim.AUTO
            for place, size in enumerate(one.shape)
            if other.inputs[name].shape[place] != size
        }
        for name, one in call.inputs.items()
    }
    whole, failed = _Call(module, call).eval(), ""
    for sizes in (free, None) if any(free.values()) else (None,):
        try:
            with torch.no_grad(), _quiet():
                return (_write_onnx if format == ONNX else _write_torch)(whole, call, sizes, path)
        except Exception as error:
            path.unlink(missing_ok=True)
            failed = failed or _reason(error)
    raise OutputError(f"{type(module).__name__} has no form as {_title(format)}: {failed}")


def outputs_of(path: Path, inputs: Mapping[str, Tensor], format: str) -> dict[str, Tensor]:
    """Return what a written file puts out, run as other programs run it.

    Raises:
        OutputError: it does not run.
    """
    try:
        if format == ONNX:
            return _run_onnx(path, inputs)
        with torch.no_grad(), _quiet():
            found = torch.export.load(path).module()(**inputs)
            return dict(found)
    except Exception as error:
        raise OutputError(f"what was written as {_title(format)} does not run: {_reason(error)}") from error


def _check_onnx(module: nn.Module) -> None:
    from importlib.util import find_spec

    if any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")):
        raise ZooError(MISSING)
    size = sum(tensor.numel() * tensor.element_size() for tensor in (*module.parameters(), *module.buffers()))
    if size > LARGEST:
        raise OutputError(
            f"an ONNX file holds at most {LARGEST:,} bytes, and the weights have {size:,}: export with format='torch'"
        )


def _write_torch(whole: nn.Module, call: ForwardPass, free: Any, path: Path) -> Graph:
    program = torch.export.export(whole, (), dict(call.inputs), dynamic_shapes=free, strict=False)
    with path.open("wb") as file:
        torch.export.save(program, file)
    made = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    names = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    sizes: Sizes = {
        given: tuple(size if isinstance(size, int) else None for size in made[name].shape)
        for given, name in zip(call.inputs, names, strict=True)
    }
    with torch.no_grad():
        return Graph(sizes, tuple(whole(**call.inputs)))


def _write_onnx(whole: nn.Module, call: ForwardPass, free: Any, path: Path) -> Graph:
    names = tuple(whole(**call.inputs))
    program = torch.onnx.export(
        whole,
        (),
        kwargs=dict(call.inputs),
        dynamo=True,
        dynamic_shapes=free,
        input_names=list(call.inputs),
        output_names=list(names),
        external_data=False,
        verbose=False,
    )
    if program is None:
        raise OutputError("torch.onnx.export made nothing")
    program.save(path, external_data=False)
    sizes = {
        one.name: tuple(size if isinstance(size, int) else None for size in one.shape)
        for one in _session(path).get_inputs()
    }
    return Graph({name: sizes[name] for name in call.inputs if name in sizes}, names)


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _run_onnx(path: Path, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    session = _session(path)
    known = {one.name for one in session.get_inputs()}
    found = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items() if name in known})
    return {one.name: torch.from_numpy(array) for one, array in zip(session.get_outputs(), found, strict=True)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep exporters' own words about what they are doing to themselves in the block."""
    loggers = [
        logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch._export", "onnxscript", "onnx_ir")
    ]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _title(format: str) -> str:
    return "ONNX" if format == ONNX else "a program of torch.export"


def _reason(error: BaseException) -> str:
    """Return what an exporter says in a line: of its causes the first, which names the operation."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return one_line(f"{type(error).__name__}: {lines[0] if lines else ''}", 300)
