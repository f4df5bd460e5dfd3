"""Each promise broken on purpose, one at a time, in a healthy plugin: the suite names plugin, hook and fix."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from zoo.errors import PluginError
from zoo.testing import check_plugin, subject
from zoo.testing.fresh import Seen


class Mutation(NamedTuple):
    """`old` replaced by `new` (and `old2`) in a file; hook: whose promise that breaks; found: what is said."""

    old: str
    new: str
    hook: str
    found: str
    old2: str = ""
    new2: str = ""


TOY, MODEL = "zoo_toy/__init__.py", "zoo_toy/model.py"
X = "x = items(model, data, request.split)"
MEAN = '(model.module(batch["x"]) - batch["x"]).square().mean()'
TENSORS = "return zoo.checkpoint.tensors(entry)"
SCALE = 'self.register_buffer("scale", torch.full((1,), 1.5), persistent=False)'

LOADING = {
    "heavy import": Mutation("import zoo\n", "import zoo\nimport torch\n", "import", "numpy imported at its top level"),
    "prints": Mutation("import zoo\n", "import zoo\nprint('hello')\n", "import", "printed 'hello'"),
    "misspelt hook": Mutation("def describe", "def discribe", "describe", "Did you mean 'describe'?"),
    "extra argument": Mutation("def loss(model, batch)", "def loss(model, batch, epoch)", "loss", "argument 'epoch'"),
    "misspelt argument": Mutation("def tuning(entry)", "def tuning(entri)", "tuning", "Did you mean 'entry'?"),
    "no decorator": Mutation("@zoo.hookimpl\n", "", "import", "lacks the decorator @zoo.hookimpl"),
    "hook missing": Mutation("@zoo.hookimpl\ndef evaluate", "def evaluate", "evaluate", "evaluate is missing"),
    "module missing": Mutation("import zoo\n", "import zoo, no_such_module\n", "import", "No module named 'no_such"),
    "syntax error": Mutation("def describe(entry):", "def describe(entry:", "import", "SyntaxError"),
    "exits at import": Mutation("import zoo\n", "import zoo\nraise SystemExit(2)\n", "import", "SystemExit: 2"),
    "endless recursion": Mutation(
        "import zoo\n", "import zoo\ndef again():\n    again()\nagain()\n", "import", "RecursionError"
    ),
    "a wrapper among answers": Mutation(
        '@zoo.hookimpl\ndef describe(entry):\n    return {"size": str(entry.config["size"])}',
        "@zoo.hookimpl(wrapper=True)\ndef describe(entry):\n    return (yield)",
        "import",
        "['describe'] is a wrapper",
    ),
    "facts import torch": Mutation(
        '    return {"size"', '    import torch\n    return {"size"', "describe", "torch, numpy imported"
    ),
}

STRUCTURE = {
    "buffer on meta": Mutation("torch.full((1,), 1.5)", "torch.full((1,), 1.5, device='meta')", "construct", "'scale'"),
    "buffer of NaN": Mutation("torch.full((1,), 1.5)", "torch.full((1,), torch.nan)", "construct", "holds NaN"),
    "buffer by chance": Mutation("torch.full((1,), 1.5)", "torch.randn(1)", "construct", "buffer 'scale' has other"),
    "real parameter": Mutation(
        SCALE,
        SCALE + "\n        self.decode._parameters['bias'] = nn.Parameter(torch.zeros(size))",
        "construct",
        "parameter ['decode.bias'] is real",
    ),
    "another name each time": Mutation(
        SCALE,
        SCALE + "\n        import itertools\n        Tiny.count = getattr(Tiny, 'count', itertools.count())"
        "\n        self.register_parameter(f'p{next(Tiny.count)}', nn.Parameter(torch.ones(2)))",
        "construct",
        "is not in both",
    ),
    "seeds the global generator": Mutation(
        SCALE, "torch.manual_seed(0)\n        " + SCALE, "construct", "global generator was seeded"
    ),
    "asks the network": Mutation(
        SCALE,
        SCALE + "\n        import contextlib, urllib.request\n        with contextlib.suppress(OSError):\n"
        "            urllib.request.urlopen('http://models.invalid/config.json')",
        "construct",
        "models.invalid",
    ),
    "an unpicklable module": Mutation(SCALE, SCALE + "\n        self.f = lambda: 1", "construct", "pickle"),
    "a layer without gradient": Mutation(
        "torch.tanh(self.norm(self.encode(x)))",
        "torch.tanh(self.norm(self.encode(x).detach()))",
        "loss",
        "the first is 'encode.weight'",
    ),
    "computed from real weights": Mutation(
        SCALE,
        "scale = 1.5 if self.encode.weight.is_meta else 2.5\n        " + SCALE.replace("1.5", "scale"),
        "construct",
        "streamed",
    ),
}

HOOKS = {
    "keeps everything": Mutation(
        "@zoo.hookimpl\ndef sample",
        "@zoo.hookimpl\ndef quantize(weight):\n    return weight\n\n\n@zoo.hookimpl\ndef sample",
        "quantize",
        "0.00% of toy",
    ),
    "adapts nothing": Mutation(
        "@zoo.hookimpl\ndef sample",
        "@zoo.hookimpl\ndef inject_adapter(weight):\n    import torch\n"
        "    update = zoo.LoRAUpdate(weight.shape, 1, 1.0)\n"
        "    if not weight.is_meta:\n        torch.nn.init.ones_(update.B)\n    return update\n\n\n"
        "@zoo.hookimpl\ndef sample",
        "inject_adapter",
        "without",
    ),
    "refuses a width": Mutation(
        "@zoo.hookimpl\ndef sample",
        "@zoo.hookimpl\ndef quantize(scheme):\n    return {4: None, 16: None}[scheme.bits]\n\n\n"
        "@zoo.hookimpl\ndef sample",
        "quantize",
        "KeyError: 8",
    ),
    "updates by chance": Mutation(
        "@zoo.hookimpl\ndef sample",
        "@zoo.hookimpl\ndef inject_adapter(weight, config):\n    import random\n"
        "    return zoo.LoRAUpdate(weight.shape, config.rank, 1 + random.random())\n\n\n@zoo.hookimpl\ndef sample",
        "inject_adapter",
        "a loss of",
    ),
    "factors that say otherwise": Mutation(
        "@zoo.hookimpl\ndef sample",
        "@zoo.hookimpl\ndef inject_adapter(weight, config):\n    from .model import Odd\n"
        "    return Odd(weight.shape, config.rank, 1.0)\n\n\n@zoo.hookimpl\ndef sample",
        "inject_adapter",
        "unmerged, ",
    ),
    "rows of others": Mutation(
        "@zoo.hookimpl\ndef sample",
        "@zoo.hookimpl\ndef run_rows(model, args, kwargs, rows):\n"
        "    return model.module(*args, **kwargs)[: len(rows)]\n\n\n@zoo.hookimpl\ndef sample",
        "run_rows",
        "other values for the samples of",
    ),
    "recognises everything": Mutation('return config.get("model_type") == "toy"', "return True", "recognises", "True"),
    "recognises by index": Mutation('config.get("model_type")', 'config["model_type"]', "recognises", "KeyError"),
    "recognises nothing": Mutation('"model_type") == "toy"', '"model_type") == "tom"', "recognises", "not recognised"),
    "describes in numbers": Mutation('str(entry.config["size"])', 'entry.config["size"]', "describe", "{'size': 8}"),
    "drops a tensor": Mutation(
        TENSORS,
        "return (p for p in zoo.checkpoint.tensors(entry) if p[0] != 'norm.bias')",
        "checkpoint",
        "norm.bias",
    ),
    "renames a tensor": Mutation(
        TENSORS,
        "return ((n.replace('decode', 'out'), t) for n, t in zoo.checkpoint.tensors(entry))",
        "checkpoint",
        "out.bias is not of the module",
    ),
    "wrong shape": Mutation(
        TENSORS,
        "return ((n, t.flatten()) for n, t in zoo.checkpoint.tensors(entry))",
        "checkpoint",
        "decode.weight has shape (128,)",
    ),
    "twice": Mutation(
        TENSORS,
        "yield from zoo.checkpoint.tensors(entry)\n    yield from zoo.checkpoint.tensors(entry)",
        "checkpoint",
        "comes twice",
    ),
    "other values each time": Mutation(
        TENSORS,
        "import torch\n    return ((n, t + torch.rand(()) if t.is_floating_point() else t)"
        " for n, t in zoo.checkpoint.tensors(entry))",
        "checkpoint",
        "differs",
    ),
    "damage unnoticed": Mutation(
        TENSORS,
        "import safetensors.torch\n    return safetensors.torch.load_file(entry.folder / 'model.safetensors')",
        "checkpoint",
        "SafetensorError",
    ),
    "saves the base alone": Mutation(
        "save_file(state_dict, ",
        "save_file({n: t * 0.5 if 'encode' in n else t for n, t in state_dict.items()}, ",
        "save",
        "a loss of",
    ),
    "saves no configuration": Mutation(
        '    write_json(folder / "config.json", model.entry.config)\n', "", "save", "neither config.json"
    ),
}

LEARNING = {
    "batches ignore the seed": Mutation(
        'return stream({"x": x}, request)',
        'return stream({"x": x}, zoo.BatchRequest(request.batch_size, request.split, 0))',
        "batches",
        "the same batches for seeds 3 and 4",
    ),
    "batches by chance": Mutation(
        X, X + "\n    import torch\n    x = x + torch.randn(x.shape)", "batches", "other batches from the same seed"
    ),
    "batches draw globally": Mutation(X, X + "\n    import random\n    random.random()", "batches", "Python's global"),
    "batches end": Mutation(
        'stream({"x": x}, request)',
        'stream({"x": x}, zoo.BatchRequest(request.batch_size, "test", 0))',
        "batches",
        "the same batches",
    ),
    "three batches": Mutation(
        'return stream({"x": x}, request)',
        "import itertools\n    return itertools.islice(stream({'x': x}, request), 2)",
        "batches",
        "2 training batches and then no more",
    ),
    "a fixed batch size": Mutation(
        'stream({"x": x}, request)',
        'stream({"x": x}, zoo.BatchRequest(7, request.split, request.seed))',
        "batches",
        "for batch_size=2",
    ),
    "an endless test split": Mutation(
        'stream({"x": x}, request)',
        'stream({"x": x}, zoo.BatchRequest(request.batch_size, "train", request.seed))',
        "batches",
        "no end after",
    ),
    "a shuffled test split": Mutation(
        X,
        X + "\n    import torch\n    generator = torch.Generator().manual_seed(request.seed)"
        "\n    x = x[torch.randperm(100, generator=generator)]",
        "batches",
        "other items for seeds 0 and 1",
    ),
    "data swallowed": Mutation(
        "    if data is not None:\n        raise", "    if data == 5:\n        raise", "batches", "was swallowed"
    ),
    "data not checked": Mutation("raise zoo.DataError(", "raise FileNotFoundError(", "batches", "FileNotFoundError"),
    "a loss per item": Mutation(
        ".mean()\n\n\n@zoo.hookimpl\ndef batches",
        ".mean(1)\n\n\n@zoo.hookimpl\ndef batches",
        "loss",
        "a tensor of shape (2,)",
    ),
    "a detached loss": Mutation(MEAN, MEAN + ".detach()", "loss", "without a graph"),
    "a loss that is NaN": Mutation(MEAN, MEAN + " * float('nan')", "loss", "nan"),
    "a loss by chance": Mutation(MEAN, MEAN + " * (1 + __import__('random').random())", "loss", "and then"),
    "a loss that ignores the weights": Mutation(
        MEAN,
        "(model.module.norm.bias.detach().sum() * 0 + batch['x'].clone().requires_grad_().square().mean())",
        "loss",
        "the same loss",
    ),
    "a loss upside down": Mutation(
        "return " + MEAN, "value = " + MEAN + "\n    return 2 * value.detach() - value", "loss", "before, "
    ),
    "a factor of nothing": Mutation(MEAN, MEAN + " * 0", "loss", ""),
    "unknown settings": Mutation('"warmup": 0.1', '"momentum": 0.1', "tuning", "expected a dict of"),
    "impossible settings": Mutation('"lr": 1e-2', '"lr": -1.0', "tuning", "lr as a number above 0"),
}

DRAWING = {
    "seed ignored": Mutation("manual_seed(request.seed)", "seed()", "sample", "other samples from the same seed"),
    "seed fixed": Mutation("manual_seed(request.seed)", "manual_seed(5)", "sample", "the same samples for seeds"),
    "seed needed": Mutation("if request.seed is None:", "if False:", "sample", "manual_seed"),
    "draws globally": Mutation("options = ", "__import__('random').random()\n    options = ", "sample", "Python's"),
    "seeds globally": Mutation("options = ", "__import__('torch').manual_seed(1)\n    options = ", "sample", "torch's"),
    "one more": Mutation("randn(request.n,", "randn(request.n + 1,", "sample", "3 for n=2"),
    "one alone": Mutation("randn(request.n,", "randn(2,", "sample", "2 for n=3"),
    "options swallowed": Mutation(
        "request.take(spread=3.0)", "{'spread': 3.0, **request.options}", "sample", "was swallowed"
    ),
    "options not checked": Mutation(
        "request.take(spread=3.0)", "dict(**request.options) or {'spread': 3.0}", "sample", "KeyError"
    ),
    "samples that cannot be saved": Mutation(
        "    return zoo.Samples(",
        "    class Mine(zoo.Samples):\n        def save(self, path):\n            raise KeyError(path)\n\n"
        "    return Mine(",
        "sample",
        "KeyError",
    ),
    "no samples": Mutation(
        'return zoo.Samples(model.module(x).softmax(1), "posterior")',
        "return model.module(x)",
        "sample",
        "expected zoo.Samples",
    ),
    "figures by chance": Mutation(
        '"error": (', '"luck": __import__("random").random(), "error": (', "evaluate", "and then"
    ),
    "figures draw globally": Mutation(
        'x = items(model, data, "test")',
        '__import__("torch").rand(1); x = items(model, data, "test")',
        "evaluate",
        "torch's global random state",
    ),
    "figures not finite": Mutation('"error": (', '"nan": float("inf"), "error": (', "evaluate", "'nan'"),
    "figures that are words": Mutation(
        ".mean().item()}", '.mean().item(), "unit": "mm"}', "evaluate", "dict of floats"
    ),
    "evaluate swallows data": Mutation(
        'x = items(model, data, "test")', 'x = items(model, None, "test")', "evaluate", "was swallowed"
    ),
}

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

REGISTRY = {
    "targets that are not there": Mutation('"decode"]', '"decoder"]', "inject_adapter", "'decoder' matches no weight"),
    "a key that is not there": Mutation("targets = ", "target = ", "registry", "Did you mean 'targets'?"),
    "no table": Mutation("[toy]", "[toy", "registry", "registry.toml"),
}

FILES = {
    "toy": ({**LOADING, **HOOKS, **LEARNING, **DRAWING}, TOY),
    "toy's registry": (REGISTRY, "zoo_toy/registry.toml"),
    "toy's module": (STRUCTURE, MODEL),
    "round": (QUANTIZING, "zoo_round/codec.py"),
    "gain": (KIND, "zoo_gain/gain.py"),
    "gain's table": (TABLES, "zoo_gain/__init__.py"),
    "watch": (OBSERVING, "zoo_watch.py"),
}
ALL = [(name.partition("'")[0], path, kind, one) for name, (many, path) in FILES.items() for kind, one in many.items()]
IN_A_FRESH_PROCESS = ("heavy import", "prints", "facts import torch")


@pytest.mark.filterwarnings("ignore")  # of what a broken plugin does
@pytest.mark.parametrize(("name", "path", "kind", "mutation"), ALL, ids=[f"{name}-{kind}" for name, _, kind, _ in ALL])
def test_a_broken_promise_is_named(install, monkeypatch, name, path, kind, mutation):
    if kind not in IN_A_FRESH_PROCESS:
        monkeypatch.setattr(subject, "import_in_subprocess", lambda name: Seen())
    install(name, {path: [(mutation.old, mutation.new), (mutation.old2, mutation.new2)]})
    with pytest.raises(PluginError) as caught:
        check_plugin(name)
    said = str(caught.value)
    assert f"plugin {name!r}" in said
    assert getattr(caught.value, "hook", None) == mutation.hook
    assert mutation.found in said.partition("found: ")[2]
    assert "Fix: " in said
    assert "\n" not in said


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
