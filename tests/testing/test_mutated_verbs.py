"""Promises of data, loss, samples and figures broken one at a time: plugin, hook and fix are named."""

from __future__ import annotations

import pytest

from .mutations import Mutation, broken

X = "x = items(model, data, request.split)"
MEAN = '(model.module(batch["x"]) - batch["x"]).square().mean()'

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
    "a figure that its examples do not give": Mutation(
        'return {"error": (',
        "from zoo.metrics import Figures\n    from zoo.metrics.statistics import Ratio\n"
        '    return Figures({"error": 1.0}, statistics={"error": Ratio([1.0, 2.0])}) or {"error": (',
        "evaluate",
        "its values give 1.5",
    ),
    "an interval by chance": Mutation(
        'return {"error": (',
        "import random\n    from zoo.metrics import Scores\n    scores = Scores()\n"
        "    spread = random.Random().randrange(1, 2**20) / 2**20  # the mean is 1 to the last digit\n"
        '    scores.mean("error", [1 - spread, 1.0, 1 + spread])\n'
        '    return scores.figures() or {"error": (',
        "evaluate",
        "error has the interval",
    ),
    "evaluate swallows data": Mutation(
        'x = items(model, data, "test")', 'x = items(model, None, "test")', "evaluate", "was swallowed"
    ),
}

ALL = broken("toy", "zoo_toy/__init__.py", {**LEARNING, **DRAWING})


@pytest.mark.filterwarnings("ignore")  # of what a broken plugin does
@pytest.mark.parametrize(("name", "path", "kind", "mutation"), ALL)
def test_a_broken_promise_is_named(names_what_is_broken, name, path, kind, mutation):
    names_what_is_broken(name, path, kind, mutation)
