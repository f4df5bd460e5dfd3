"""What zoo does with many model types of four libraries: a small one of each, with random weights, as it is saved.

    python benchmarks/model_types.py [--json] [--quick] [--only NAME …] [--page]

Of each type: which plugin takes it, the share of its values that 4 bit stores, whether a LoRA of rank 2 on them gets a
gradient in every factor, whether the model and the adapter are the same when they are saved and read again (the model
by its library), and which of loss, batches, evaluate and sample work. `--page` prints docs/types.md.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from page_of_types import page
from tiny_types import Case
from type_subjects import Subject, same, subjects

QUICK = ("gpt2", "bert", "t5", "xlnet", "clip", "AutoencoderTiny", "GCN", "GCNConv", "resnet10t")
VERBS = ("loss", "batches", "evaluate", "sample")
_TEXTS = [" ".join(f"w{(i * 7 + j) % 80}" for j in range(30)) for i in range(20)]


def measure(subject: Subject, folder: Path) -> dict[str, Any]:
    """Return what becomes of one type; "not made" where no small one could be made."""
    import zoo

    row: dict[str, Any] = {"library": subject.library, "task": subject.task, "type": subject.kind}
    source = folder / "source"
    source.mkdir()
    try:
        torch.manual_seed(0)
        case = subject.make(source)
    except Exception as error:  # whatever the library's own constructor raises
        return {**row, "not made": f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"}
    try:
        plain = zoo.load(str(source))
        model = zoo.load(str(source), bits=zoo.Quantization(bits=4, mixed=False), lora=2, seed=0)
    except zoo.ZooError as error:
        return {**row, "refused": " ".join(str(error).replace(str(source), "it").split())}
    row |= {"plugin": model.entry.plugin, "share": round(model.footprint().quantized_share, 3)}
    row |= {"saved": _saved(plain, model, case, source, folder), "gradients": _gradients(plain, model, case)}
    return {**row, **_verbs(model, case, subject)}


def _gradients(plain: Any, model: Any, case: Case) -> bool | str:
    """Return whether every factor of a weight that the library's own module uses in a differentiable way gets one."""
    call = {name: value for name, value in case.call.items() if name != "return_loss"}
    if hasattr(getattr(plain.module, "config", None), "use_cache"):
        call["use_cache"] = False
    for one in (plain, model):
        try:
            output = one.module(**call)
            sum(tensor.float().square().mean() for tensor in _tensors(output) if tensor.requires_grad).backward()
        except Exception as error:  # the library's own forward may refuse the general call
            return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
    used = {name for name, parameter in plain.module.named_parameters() if parameter.grad is not None}
    without = {name for name, one in model.trainable_parameters() if one.grad is None}
    return not any(name.partition(".updates.")[0].removesuffix("_store") in used for name in without)


def _tensors(output: Any) -> list[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        return [output] if output.is_floating_point() else []
    parts = output.values() if hasattr(output, "values") else output if isinstance(output, tuple | list) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _saved(plain: Any, model: Any, case: Case, source: Path, folder: Path) -> bool | str:
    """Return whether the saved model is read by its library with the same weights, and the adapter by zoo."""
    import zoo

    try:
        again = case.again(plain.save(folder / "saved"))
        with torch.no_grad():
            for _, factor in model.trainable_parameters():
                factor.normal_()
        adapter = model.save_adapter(folder / "adapter")
        other = zoo.load(str(source), bits=zoo.Quantization(bits=4, mixed=False), lora=str(adapter))
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
    read = same(plain.state_dict(), case.state) and same(again, case.again(source))
    return read and same(model.state_dict(), other.state_dict())


def _verbs(model: Any, case: Case, subject: Subject) -> dict[str, Any]:
    """Return which verbs work, and why the others do not."""
    data, options = _inputs(model, case, subject)
    calls = {
        "loss": lambda: float(model.loss(next(iter(model.batches(data, batch_size=2))))),
        "batches": lambda: next(iter(model.batches(data, batch_size=2))),
        "evaluate": lambda: model.evaluate(data),
        "sample": lambda: model.sample(1, seed=0, **options),
    }
    works, refused = [], {}
    for verb in VERBS:
        try:
            with torch.no_grad():
                calls[verb]()
            works.append(verb)
        except Exception as error:
            refused[verb] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return {"verbs": works, "reasons": refused}


def _inputs(model: Any, case: Case, subject: Subject) -> tuple[Any, dict[str, Any]]:
    """Return data and options of `sample` as a plugin takes them."""
    plugin = model.entry.plugin
    if plugin in ("gpt", "bert"):
        return _texts(plugin, subject, getattr(model.module.config, "id2label", None) or {})
    if plugin == "library":
        return _rows(case.call), {"prompt": "w1 w2"}
    if plugin == "vit" and "pixel_values" in case.call:
        images = torch.cat([case.call["pixel_values"]] * 10)
        return (images, torch.arange(20) % 2), {"images": images[:1]}
    data = case.data.get(plugin)
    if plugin == "vit" and data is not None:
        return data, {"images": data[0][:1]}
    return data, {"steps": 2} if plugin == "ddpm" else {"data": data}


def _texts(plugin: str, subject: Subject, names: dict[int, str]) -> tuple[Any, dict[str, Any]]:
    """Return texts with what the task says of them, and options of `sample`."""
    if subject.task == "SEQUENCE_CLASSIFICATION":
        return [(text, names[i % 2]) for i, text in enumerate(_TEXTS)], {"text": "w1 w2"}
    if subject.task == "TOKEN_CLASSIFICATION":
        words = [text.split() for text in _TEXTS]
        return [(each, [names[i % 2] for i in range(len(each))]) for each in words], {"text": "w1 w2"}
    return _TEXTS, {"prompt": "w1 w2"} if plugin == "gpt" else {"text": "w1 <mask> w3"}


def _rows(call: dict[str, Any]) -> dict[str, Any]:
    """Return twenty different rows of the tensors of a call."""
    rows = {name: torch.cat([value] * 10) for name, value in call.items() if isinstance(value, torch.Tensor)}
    for name, tensor in rows.items():
        if name == "input_ids":
            places = torch.arange(20).view(-1, *[1] * (tensor.ndim - 1))
            rows[name] = 5 + (tensor + places) % 80
    if "labels" in rows and "input_ids" in rows and rows["labels"].shape == rows["input_ids"].shape:
        rows["labels"] = rows["input_ids"].where(rows["labels"] > 1, rows["labels"])
    return rows


def main() -> None:
    """Measure every subject and print a line for each, JSON, or the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], help="types, or tasks, or libraries")
    parser.add_argument("--quick", action="store_true", help="a few types: checks the script")
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each type")
    parser.add_argument("--page", metavar="JSON", help="print the page of figures that --json has printed")
    options = parser.parse_args()
    if options.page:
        print(page([json.loads(line) for line in Path(options.page).read_text().splitlines()]), end="")
        return
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    wanted = {*options.only, *(QUICK if options.quick else ())}
    for subject in subjects():
        if wanted and not wanted & {subject.kind, subject.task, subject.library}:
            continue
        if options.quick and subject.task in ("SEQUENCE_CLASSIFICATION", "TOKEN_CLASSIFICATION"):
            continue
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            found = measure(subject, Path(folder))
        print(json.dumps(found) if options.json else " ".join(f"{k}={v}" for k, v in found.items()), flush=True)


if __name__ == "__main__":
    main()
