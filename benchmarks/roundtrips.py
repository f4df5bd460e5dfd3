"""Round trips of adapters between zoo and PEFT: how much the outputs differ.

    python benchmarks/roundtrips.py [--only NAME] [--quick]

Every case creates an adapter with random factors in one library over a small random model, saves it, loads it in the
other one, and compares the outputs of both models on fresh inputs: the largest difference, relative to the largest
output. `effect` is how much the adapter changes the outputs, on the same scale. 4 bit: zoo's model has a 4-bit base,
and PEFT's the dequantized values of the same weights.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from roundtrip_models import MODELS, Inputs, Mixture, SmallModel
from torch import Tensor, nn

import zoo
from zoo.catalog import discovery


class Result(NamedTuple):
    """The result of a round trip, relative to the largest output.

    Attributes:
        difference: of both models' outputs.
        effect: the change of the outputs by the adapter.
    """

    difference: float
    effect: float


class Case(NamedTuple):
    """One adapter; None for a direction that is not tested.

    Attributes:
        zoo_config: returns zoo's configuration.
        peft_config: class name and arguments of PEFT's configuration.
    """

    zoo_config: Callable[[], zoo.Adapter] | None
    peft_config: tuple[str, dict[str, Any]] | None


def cases(small: SmallModel) -> Iterator[tuple[str, Case]]:
    """Yield the adapters to test on a model, with their names."""
    for layer, targets in small.targets.items():
        if layer not in ("product", "IA3"):
            case = _lora(_ours(targets), targets)
            # PEFT itself trains two adapters of one tied weight, which zoo refuses.
            yield f"LoRA, {layer}", case._replace(peft_config=None) if "tied" in layer else case
    layer = next(iter(small.targets))
    targets = small.targets[layer]
    ours, last = _ours(targets), targets[-1]
    yield "rsLoRA", _lora(ours, targets, {"rslora": True}, {"use_rslora": True})
    patterns: dict[str, Any] = {"rank_pattern": {last: 5}, "alpha_pattern": {targets[0]: 3.0}}
    yield "rank and alpha patterns", _lora(ours, targets, patterns, patterns)
    if layer != "MHA":
        yield f"DoRA, {layer}", _lora(ours, targets, {"dora": True}, {"use_dora": True})
    yield "bias all", _lora(ours, targets, {"bias": "all"}, {"bias": "all"})
    yield "bias lora_only", _lora(ours, targets, {"bias": "lora_only"}, {"bias": "lora_only"})
    yield "modules_to_save", _lora(ours, targets, {"modules_to_save": small.saved}, {"modules_to_save": small.saved})
    if "Conv2d" in small.targets:
        targets = small.targets["Conv2d"]
        yield "DoRA, Conv2d", _lora(targets, targets, {"dora": True}, {"use_dora": True})
    if "Embedding" in small.targets:
        targets = small.targets["Embedding"]
        yield "DoRA, Embedding", _lora(targets, targets, {"dora": True}, {"use_dora": True})
    if small.build is Mixture:
        yield "target_parameters, 2-D", _parameters(["experts.down", "experts.mix"])
        yield "target_parameters, one", _parameters(["experts.down"])
        theirs = {"target_parameters": ["experts.up", "experts.mix"], "target_modules": ["first"], "r": 2}
        yield "target_parameters, 3-D", Case(None, ("LoraConfig", theirs))
    if "product" in small.targets:
        yield from _products(small.targets["product"])
    if "IA3" in small.targets and "ia3" in discovery.claims():  # a plugin
        yield "IA3", _ia3(small.targets["IA3"], [])
        yield "IA3, feedforward", _ia3(small.targets["IA3"], small.targets["IA3"][-1:])


def _ours(targets: list[str]) -> list[str]:
    """Return zoo's targets: PEFT adapts an attention by its module's name, zoo by its two weights."""
    return [t for one in targets for t in ((f"{one}.in_proj_weight", "out_proj") if one == "self_attn" else (one,))]


def _lora(
    ours: list[str], theirs: list[str], our: dict[str, Any] | None = None, their: dict[str, Any] | None = None
) -> Case:
    kind = {"r": 4, "lora_alpha": 7, "target_modules": theirs, **(their or {})}
    return Case(lambda: zoo.LoRA(rank=4, alpha=7, targets=ours, **(our or {})), ("LoraConfig", kind))


def _parameters(names: list[str]) -> Case:
    theirs = {"r": 3, "lora_alpha": 5, "target_modules": ["first", "gate"], "target_parameters": names}
    return Case(lambda: zoo.LoRA(rank=3, alpha=5, targets=["first", "gate", *names]), ("LoraConfig", theirs))


def _products(targets: list[str]) -> Iterator[tuple[str, Case]]:
    for kind in ("LoHa", "LoKr"):
        variants: dict[str, dict[str, Any]] = {"": {}, ", cores": {"use_effective_conv2d": True}}
        if kind == "LoKr":
            variants[", both decomposed"] = {"decompose_both": True, "decompose_factor": 2}
        for name, options in variants.items():
            ours = lambda kind=kind, options=options: getattr(zoo, kind)(rank=2, alpha=3, targets=targets, **options)  # noqa: E731
            yield kind + name, Case(ours, (f"{kind}Config", {"r": 2, "alpha": 3, "target_modules": targets, **options}))


def _ia3(targets: list[str], feedforward: list[str]) -> Case:
    def ours() -> zoo.Adapter:
        from zoo_ia3 import IA3

        return IA3(targets=targets, feedforward=feedforward)

    return Case(ours, ("IA3Config", {"target_modules": targets, "feedforward_modules": feedforward}))


# Both directions


@torch.no_grad()
def run(model: Any, inputs: Inputs) -> Tensor:
    """Return a model's output, without torch's fast path, in which PEFT's adapters of attentions have no effect."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        output = model(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return output if isinstance(output, Tensor) else output[0]


def perturb(module: nn.Module) -> None:
    """Add noise to all trainable parameters, so that an adapter has an effect."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                size = 0.5 if "hada_" in name else 0.2  # LoHa multiplies four to six of them
                parameter.add_(size * torch.randn_like(parameter))


def compare(ours: Tensor, theirs: Tensor, plain: Tensor) -> Result:
    """Return the result for the outputs of zoo's model, PEFT's, and the one without an adapter, all of one shape."""
    size = max(1.0, float(theirs.abs().max()))
    return Result(float((ours - theirs).abs().max()) / size, float((theirs - plain).abs().max()) / size)


def bases(small: SmallModel, bits: int | None) -> tuple[zoo.Model, nn.Module]:
    """Return zoo's model, and a module of the same weights for PEFT."""
    base = small.build().eval()
    model = zoo.wrap(copy.deepcopy(base), bits=bits)
    if bits:
        base.load_state_dict(model.state_dict())
    return model, base


def to_peft(small: SmallModel, config: Callable[[], zoo.Adapter], bits: int | None, folder: Path) -> Result:
    """Create and save the adapter with zoo, load it with PEFT, every key in its place."""
    import peft
    from safetensors.torch import load_file

    model, base = bases(small, bits)
    inputs = small.inputs()
    plain = run(base, inputs)
    model.add_adapter("default", config())
    perturb(model.module)
    model.save_adapter(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(base, peft.PeftConfig.from_pretrained(str(folder))).eval()
        loaded = peft.set_peft_model_state_dict(theirs, load_file(folder / "adapter_model.safetensors"))
    trained = ("lora_", "hada_", "lokr_", "ia3_", "modules_to_save")
    left = [key for key in loaded.missing_keys if any(word in key for word in trained)]
    assert not loaded.unexpected_keys, f"PEFT has no place for {loaded.unexpected_keys}"
    assert not left, f"PEFT was given nothing for {left}"
    return compare(run(model, inputs), run(theirs, inputs), plain)


def from_peft(small: SmallModel, kind: str, options: dict[str, Any], bits: int | None, folder: Path) -> Result:
    """Create and save the adapter with PEFT, load it with zoo; zoo must save it as the same adapter again."""
    import peft

    model, base = bases(small, bits)
    inputs = small.inputs()
    plain = run(base, inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(base, getattr(peft, kind)(**options)).eval()
        perturb(theirs)
        theirs.save_pretrained(str(folder / "theirs"))
    model.add_adapter("theirs", folder / "theirs")
    first = run(model, inputs)
    model.save_adapter(folder / "ours")
    model.remove_adapter("theirs")
    model.add_adapter("again", folder / "ours")
    assert torch.equal(run(model, inputs), first)
    return compare(first, run(theirs, inputs), plain)


def trips(only: str = "") -> Iterator[tuple[str, Callable[[Path], Result]]]:
    """Yield (name, function of a new folder) of every round trip whose name contains `only`."""
    for place, small in MODELS.items():
        for what, case in cases(small):
            for bits in (None, 4):
                name = f"{place}, {what}{', 4 bit' if bits else ''}"
                if case.zoo_config is not None and only in (there := f"zoo → PEFT: {name}"):
                    yield there, partial(to_peft, small, case.zoo_config, bits)
                if case.peft_config is not None and only in (back := f"PEFT → zoo: {name}"):
                    yield back, partial(from_peft, small, *case.peft_config, bits)


def main() -> None:
    """Print a row for each round trip."""
    only = (
        sys.argv[sys.argv.index("--only") + 1] if "--only" in sys.argv else "GPT-2, rs" if "--quick" in sys.argv else ""
    )
    rows = {}
    for name, trip in trips(only):
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = trip(Path(folder))._asdict()
        if "--json" not in sys.argv:
            print(f"{name:75} {rows[name]['difference']:.1e}   effect {rows[name]['effect']:.2f}", flush=True)
    if "--json" in sys.argv:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
