"""Promises of a quantizer, an adapter kind and an observer broken one at a time: plugin, hook and fix are named."""

from __future__ import annotations

import pytest

from zoo.errors import PluginError
from zoo.testing import check_plugin

from .mutations import Mutation, broken

QUANTIZING = {
    "another shape": Mutation(
        "QuantizedTensor(codec, weight.shape",
        "QuantizedTensor(codec, weight.t().shape if weight.dim() == 2 else weight.shape",
        "quantize",
        "shape (32, 64)",
    ),
    "unpacks flat": Mutation(".view(shape).to(dtype)", ".view(-1).to(dtype)", "quantize", "shape"),
    "another type": Mutation(".view(shape).to(dtype)", ".view(shape)", "quantize", "unpacked torch.float32 for"),
    "not smaller": Mutation("return 2 if self.bits <= 4 else 1", "return 1", "quantize", "8.2 bits per value in 4 bit"),
    "by chance": Mutation(
        ".round()", ".add(torch.rand(matrix.shape)).floor()", "quantize", "torch's global random state"
    ),
    "wrong scales": Mutation("/ (middle - 1)", "/ (2 * middle - 1)", "quantize", "where"),
    "the same for all widths": Mutation("middle = 2 ** (bits - 1)", "middle = 4", "quantize", "bit, where"),
    "loses the sign": Mutation("matrix / scales", "matrix.abs() / scales", "quantize", "where"),
    "writes into the weight": Mutation(
        "codec = Round(bits)", "codec = Round(bits)\n    weight.detach().mul_(0.5)", "quantize", ""
    ),
    "a codec of tensors": Mutation("@dataclass(frozen=True)", "@dataclass", "quantize", "unhashable"),
    "the store's own memory": Mutation(
        "return (numbers * scales[:, None]).view(shape).to(dtype)",
        "dense = (numbers * scales[:, None]).view(shape).to(dtype)\n"
        "        held = globals().setdefault('HELD', {})\n"
        "        return held.setdefault((id(tensors[0]), dtype), (tensors[0], dense))[1]",
        "quantize",
        "store's own memory",
    ),
    "NaN goes through": Mutation("if not bool(torch.isfinite(weight).all()):", "if False:", "quantize", "packed"),
    "other errors": Mutation(
        'raise zoo.QuantizationError(f"round', 'raise ValueError(f"round', "quantize", "ValueError"
    ),
    "breaks on four dimensions": Mutation(
        "rows = next(", "rows, _ = weight.shape\n    rows = next(", "quantize", "ValueError"
    ),
    "refuses all": Mutation("bits not in (3, 4, 8)", "bits not in (5,)", "quantize", "none of bits"),
    "no zeros": Mutation(
        "scales = matrix.abs().amax(1) / (middle - 1)",
        "scales = matrix.abs().amax(1).clamp(min=1e-3) / (middle - 1)\n    matrix = matrix + 1e-2",
        "quantize",
        "",
    ),
    "claims fewer bits": Mutation("    def unpack", "    def claimed", "quantize", ""),
    "a codec of its own each time": Mutation(
        '    scheme: str = "round"',
        '    scheme: str = "round"\n    made: object = None\n'
        "    def __post_init__(self):\n        object.__setattr__(self, 'made', object())",
        "quantize",
        "and Round(",
    ),
    "scales held elsewhere": Mutation(
        'return zoo.QuantizedTensor(codec, weight.shape, weight.dtype, {"values": values, "scales": scales})',
        'globals().setdefault("HELD", {})[values.data_ptr()] = scales\n'
        '    held = {"values": values, "scales": torch.ones_like(scales)}\n'
        "    return zoo.QuantizedTensor(codec, weight.shape, weight.dtype, held)",
        "quantize",
        "other values after",
        "(numbers * scales[:, None])",
        "(numbers * HELD.get(tensors[0].data_ptr(), scales)[:, None])",
    ),
    "keeps a linear layer": Mutation(
        "codec = Round(bits)\n",
        "codec = Round(bits)\n    if tuple(weight.shape) == (64, 16):\n        return weight\n",
        "quantize",
        "linear.weight of shape (64, 16) is not packed",
    ),
    "no backward": Mutation(
        "values, scales = tensors\n",
        "values, scales = tensors\n        assert torch._C._current_graph_task_id() == -1\n",
        "quantize",
        "AssertionError",
    ),
    "scales in the codec": Mutation(
        "codec = Round(bits)",
        "codec = Round(bits)\n    object.__setattr__(codec, 'largest', weight[:1].float().abs().max().item())",
        "quantize",
        "",
        "(numbers * scales[:, None])",
        "(numbers * scales[:, None] * self.largest)",
    ),
}

KIND = {
    "changes something": Mutation("factor = 1 +", "factor = 1.01 +", "inject_adapter", "output changed by"),
    "no gradient": Mutation(
        "self.strength * self.gain", "self.strength * self.gain.detach()", "inject_adapter", "no graph"
    ),
    "a dead parameter": Mutation(
        "self.gain = nn",
        "self.other = nn.Parameter(torch.ones(2))\n        self.gain = nn",
        "inject_adapter",
        "none for",
    ),
    "another type": Mutation(".to(weight.dtype)", "", "inject_adapter", "torch.float32 for"),
    "another shape": Mutation(
        "return (weight * factor.view(-1, *[1] * (weight.dim() - 1)))",
        "return (weight[:1] * factor[0])",
        "inject_adapter",
        "shape (1,",
    ),
    "factors that say otherwise": Mutation(
        "    def forward(",
        "    def factors(self):\n        from zoo.weights.update import Factors\n"
        "        return Factors(self.gain[:, None], self.gain.new_ones(1, 1), 1.0)\n\n    def forward(",
        "inject_adapter",
        "",
    ),
    "another result each time": Mutation(
        "factor = 1 + self.strength",
        "self.strength = 3.0 - self.strength\n        factor = 1 + self.strength",
        "inject_adapter",
        "",
    ),
    "writes into the weight": Mutation(
        "factor = 1 +", "weight.data.mul_(0.99)\n        factor = 1 +", "inject_adapter", ""
    ),
    "a configuration that needs more": Mutation(
        "strength: float = 1.0",
        "strength: float",
        "adapter_config",
        "missing 1 required positional argument",
        "targets: zoo.Targets = None",
        "targets: zoo.Targets",
    ),
    "another kind": Mutation(
        'kind = "gain"\n    targets', 'kind = "loss"\n    targets', "adapter_config", "kind 'loss'"
    ),
    "forgets a field": Mutation(
        "    strength: float = 1.0\n",
        "    strength: float = 1.0\n\n"
        "    def to_peft(self):\n        return {'peft_type': 'GAIN', 'targets': 'some'}\n",
        "adapter_config",
        "for Gain(",
    ),
    "by chance": Mutation("torch.zeros(rows", "torch.randn(rows", "inject_adapter", "output changed by"),
    "an argument of its own": Mutation("(weight, config)", "(weight, confg)", "inject_adapter", "the argument 'confg'"),
    "unpicklable": Mutation(
        "self.strength = strength", "self.f = lambda: 1\n        self.strength = strength", "inject_adapter", "pickle"
    ),
    "learned outside": Mutation(
        "self.strength = strength", "self.strength = strength * torch.rand(()).item()", "adapter_config", "differs by"
    ),
    "no parameters": Mutation(
        "nn.Parameter(torch.zeros(rows, device=device))", "torch.zeros(rows)", "inject_adapter", ""
    ),
    "bare errors": Mutation(
        "        super().__init__()\n",
        "        assert rows != 50\n        super().__init__()\n",
        "inject_adapter",
        "AssertionError",
    ),
}

TABLES = {
    "a row for no hook": Mutation("inject_adapter=", "inject_adaptor=", "import", "Did you mean 'inject_adapter'?"),
    "a module that is missing": Mutation('".gain"', '".gian"', "inject_adapter", "Did you mean '.gain'?"),
    "a function that is missing": Mutation(
        "Gain.from_peft", "Gain.form_peft", "adapter_config", "no function 'Gain.form"
    ),
    "a row that is missing": Mutation('inject_adapter=".gain", ', "", "inject_adapter", "inject_adapter is missing"),
    "the wrong function": Mutation('".gain"', '".gain:Gain.from_peft"', "inject_adapter", "the argument 'raw'"),
    "a module that fails": Mutation('".gain"', '"zoo_gain.failing"', "inject_adapter", "ZeroDivisionError"),
}

OBSERVING = {
    "no generator": Mutation('CALLS.append("loss")\n    return (yield)', "return None", "import", "generator"),
    "swallows": Mutation(
        "    result = yield\n    return result", "    yield\n    return None", "batches", "0 items, where others or 2"
    ),
    "changes": Mutation(
        'CALLS.append("describe")\n    return (yield)',
        'return dict((yield) or {}, seen="yes")',
        "describe",
        "dict, and not the dict",
    ),
    "uses up": Mutation("    return result", "    return iter(list(result)[1:])", "batches", ""),
    "hides errors": Mutation(
        'CALLS.append("loss")\n    return (yield)',
        "try:\n        return (yield)\n    except Exception:\n        return None",
        "loss",
        "the error was swallowed",
    ),
    "other errors": Mutation(
        'CALLS.append("loss")\n    return (yield)',
        "try:\n        return (yield)\n    except Exception as error:\n        raise ValueError(error) from error",
        "loss",
        "ValueError instead",
    ),
    "draws": Mutation(
        'CALLS.append("describe")', "__import__('random').random()", "import", "Python's global random state"
    ),
}

ALL = [
    *broken("round", "zoo_round/codec.py", QUANTIZING),
    *broken("gain", "zoo_gain/gain.py", KIND),
    *broken("gain", "zoo_gain/__init__.py", TABLES),
    *broken("watch", "zoo_watch.py", OBSERVING),
]


@pytest.mark.filterwarnings("ignore")  # of what a broken plugin does
@pytest.mark.parametrize(("name", "path", "kind", "mutation"), ALL)
def test_a_broken_promise_is_named(names_what_is_broken, name, path, kind, mutation):
    names_what_is_broken(name, path, kind, mutation)


def test_an_update_that_merges_otherwise_is_named(install):
    from zoo.testing import kinds
    from zoo.testing.subject import PluginUnderTest

    old = "factor = 1 + self.strength"
    install("gain", {"zoo_gain/gain.py": [(old, f"self.strength = 3.0 - self.strength\n        {old}")]})
    with pytest.raises(PluginError, match=r"output differs by .* when merged"):
        kinds.it_merges.verify(PluginUnderTest("gain"))


def test_observers_are_tried_with_every_hook_and_argument():
    import inspect

    from zoo.plugin import hookspecs
    from zoo.plugin.manager import HOOKS
    from zoo.testing.observing import situation

    arguments, answers = situation()
    assert set(answers) == set(HOOKS)
    for hook in HOOKS:
        assert set(inspect.signature(getattr(hookspecs, hook)).parameters) <= {*arguments, "request"}


@pytest.mark.parametrize("name", ["toy", "round", "gain", "watch"])
def test_the_healthy_ones_pass(install, name):
    install(name)
    results = check_plugin(name)
    assert len(results) > 10
    assert all(result.ok is not False for result in results)
