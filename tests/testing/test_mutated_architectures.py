"""Promises of an architecture, its module and its hooks broken one at a time: plugin, hook and fix are named."""

from __future__ import annotations

import pytest

from .mutations import Mutation, broken

TENSORS = "return zoo.checkpoint.tensors(entry)"
SCALE = 'self.register_buffer("scale", torch.full((1,), 1.5), persistent=False)'

HEADS = "@zoo.hookimpl\ndef heads(entry):\n    return zoo.Heads({})\n\n\n@zoo.hookimpl\ndef describe"

LOADING = {
    "a head that nothing builds": Mutation(
        "@zoo.hookimpl\ndef describe", HEADS.format("('classify',)"), "heads", "no parameter of another shape"
    ),
    "a head for nothing": Mutation(
        "@zoo.hookimpl\ndef describe", HEADS.format("('dance',)"), "heads", "the task 'dance'"
    ),
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

REGISTRY = {
    "targets that are not there": Mutation('"decode"]', '"decoder"]', "inject_adapter", "'decoder' matches no weight"),
    "a key that is not there": Mutation("targets = ", "target = ", "registry", "Did you mean 'targets'?"),
    "no table": Mutation("[toy]", "[toy", "registry", "registry.toml"),
}

ALL = [
    *broken("toy", "zoo_toy/__init__.py", {**LOADING, **HOOKS}),
    *broken("toy", "zoo_toy/registry.toml", REGISTRY),
    *broken("toy", "zoo_toy/model.py", STRUCTURE),
]


@pytest.mark.filterwarnings("ignore")  # of what a broken plugin does
@pytest.mark.parametrize(("name", "path", "kind", "mutation"), ALL)
def test_a_broken_promise_is_named(names_what_is_broken, name, path, kind, mutation):
    names_what_is_broken(name, path, kind, mutation)
