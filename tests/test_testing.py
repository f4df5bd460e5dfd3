"""The conformance check: it passes zoo's own plugins and names each broken promise."""

from __future__ import annotations

import textwrap

import pytest

from zoo import registry
from zoo.errors import PluginError
from zoo.testing import check_plugin

PLUGIN = """
import zoo

@zoo.hookimpl
def construct(entry):
    from torch import nn
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))

@zoo.hookimpl
def sample(model, request):
    import torch
    generator = torch.Generator().manual_seed(request.seed)
    x = torch.randn(request.n, 4, generator=generator)
    return zoo.Samples([str(row.tolist()) for row in model.module(x)], "text")

@zoo.hookimpl
def loss(model, batch):
    return (model.module(batch["x"]) - batch["x"]).square().mean()

@zoo.hookimpl
def batches(model, data, request):
    import torch
    generator = torch.Generator().manual_seed(request.seed)
    while True:
        yield {"x": torch.randn(request.batch_size, 4, generator=generator)}

@zoo.hookimpl
def evaluate(model, data):
    import torch
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    return {"error": (model.module(x) - x).square().mean().item()}
"""
REGISTRY = '[toy]\nplugin = "toy"\nsummary = "x"\nlicense = "MIT"\nweights = "embedded"\n'


def install(site, code: str) -> None:
    import torch
    from safetensors.torch import save_file
    from torch import nn

    files = {"zoo_toy/__init__.py": code, "zoo_toy/registry.toml": REGISTRY, "zoo_toy/embedded/config.json": "{}"}
    site.install("zoo-toy", {"toy": "zoo_toy"}, files)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    save_file(module.state_dict(), site.folder / "zoo_toy/embedded/model.safetensors")
    registry.forget()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddpm", "gpt"])
def test_zoos_own_plugins_keep_their_promises(name):
    checked = check_plugin(name)
    assert f"{name} repeats by seed, and trains in 4 bit with LoRA" in checked


def test_a_good_plugin_passes(site):
    install(site, PLUGIN)
    assert check_plugin("toy") == (
        "loads",
        "imports nothing heavy",
        "implements construct, sample, loss, batches, evaluate",
        "toy is constructed on meta, its buffers real",
        "toy repeats by seed, and trains in 4 bit with LoRA",
    )


BROKEN = {
    "heavy import": ("import zoo\n", "import zoo\nimport torch\n", "zoo_toy imports torch at its top level"),
    "hook missing": ("@zoo.hookimpl\ndef evaluate", "def evaluate", "evaluate is missing"),
    "hook misspelt": ("def evaluate", "def evaluat", "there is no hook 'evaluat'. Did you mean 'evaluate'"),
    "buffer on meta": (
        "    return nn.Sequential",
        "    import torch\n    with torch.device('meta'):\n        return nn.Sequential",
        r"construct left toy's buffer \['1.running_mean'\] on meta",
    ),
    "seed ignored": (
        "x = torch.randn(request.n, 4, generator=generator)",
        "x = torch.randn(request.n, 4)",
        "same seed",
    ),
    "seed fixed": ("manual_seed(request.seed)\n    x", "manual_seed(5)\n    x", "the same samples from other seeds"),
    "figures jump": ("generator=torch.Generator().manual_seed(0))", ")", "other figures when it is called again"),
    "global state": (
        "x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))",
        "torch.manual_seed(0); x = torch.randn(8, 4)",
        "changes torch's global random state",
    ),
    "batches jump": ("torch.randn(request.batch_size, 4, generator=generator)", "torch.rand(2, 4)", "other batches"),
    "loss detached": (
        ".mean()\n\n@zoo.hookimpl\ndef batches",
        ".mean().detach().requires_grad_()\n\n@zoo.hookimpl\ndef batches",
        "no gradient",
    ),
    "loss not finite": ('model.module(batch["x"]) - batch["x"])', 'model.module(batch["x"]) / 0.0)', "loss is"),
    "loss no scalar": (
        ".square().mean()\n\n@zoo.hookimpl\ndef batches",
        ".square()\n\n@zoo.hookimpl\ndef batches",
        "scalar",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_promise_is_named(site, kind):
    good, bad, message = BROKEN[kind]
    assert good in PLUGIN
    install(site, textwrap.dedent(PLUGIN.replace(good, bad)))
    with pytest.raises(PluginError, match=message):
        check_plugin("toy")
