"""A plugin as a table: declared without an import, resolved on first use."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import torch
from torch import nn

import zoo
from zoo.cli import plugin_status
from zoo.plugin import hooks, hookspecs, manager, table

from .helpers import FILES, MODEL, Bare, entry, install, with_table


def test_every_form_of_a_row_finds_its_function(site):
    install(site)
    assert isinstance(hooks.construct(entry()), nn.Linear)
    assert torch.equal(hooks.loss(Bare(entry()), torch.ones(3)), torch.tensor(3.0))
    assert torch.equal(next(hooks.batches(Bare(entry()), 5, zoo.BatchRequest(2))), torch.full((2,), 5.0))
    assert hooks.describe(entry()) == {"who": "some-model"}
    assert hooks.recognise({"model_type": "mine"}) == ("mine",)  # a decorated function in the same module


def test_a_module_is_imported_when_its_hook_is_first_called_and_no_other_is(site):
    install(site)
    assert hooks.implemented("mine") == ("recognises", "construct", "loss", "batches", "describe")
    assert hooks.describe(entry())
    assert not {"zoo_mine.model", "zoo_mine.training"} & set(sys.modules)
    hooks.construct(entry())
    assert "zoo_mine.model" in sys.modules
    assert "zoo_mine.training" not in sys.modules


def test_declaring_and_listing_import_nothing_heavy(site):
    install(site)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import zoo_mine; from zoo.plugin.child import HEAVY\n"
        "from zoo.plugin import manager\n"
        "print(*manager.implemented('mine'))\n"
        "print([name for name in (*HEAVY, 'zoo_mine.model', 'zoo_mine.training') if name in sys.modules])\n"
        "manager.caller('construct', 'mine'); print('torch' in sys.modules, 'zoo_mine.training' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(site.folder)], capture_output=True, text=True, timeout=100)
    assert done.stdout.splitlines() == ["recognises construct loss batches describe", "[]", "True False"], done.stderr


def test_the_function_is_looked_up_once(site):
    install(site)
    for _ in range(3):
        hooks.loss(Bare(entry()), torch.ones(1))
    training = sys.modules["zoo_mine.training"]
    training.loss = None
    assert torch.equal(hooks.loss(Bare(entry()), torch.ones(2)), torch.tensor(2.0))
    assert training.calls == ["loss"] * 4


def test_a_module_may_be_called_like_its_hook(site):
    """Importing it binds the name in the package, where a later registration must still find the function."""
    files = {
        "__init__.py": with_table('construct=".model", loss=".loss"'),
        "loss.py": "def loss(batch):\n    return batch.sum()\n",
    }
    install(site, {"model.py": MODEL, **files})
    for _ in range(2):
        assert torch.equal(hooks.loss(Bare(entry()), torch.ones(4)), torch.tensor(4.0))
        hooks.reset()


def test_modules_in_full_names_of_methods_and_packages_below(site):
    install(
        site,
        __init__=with_table('construct="zoo_other:Made.construct", loss=".parts.one", describe=".parts:two"'),
    )
    other = (
        "from torch import nn\nclass Made:\n    @staticmethod\n    def construct():\n        return nn.Linear(1, 1)\n"
    )
    parts = {"zoo_mine/parts/__init__.py": "def two(): return {'a': 'b'}", "zoo_other.py": other}
    site.install("zoo-parts", {}, {**parts, "zoo_mine/parts/one.py": "def loss(batch): return batch.sum()"})
    assert isinstance(hooks.construct(entry()), nn.Linear)
    assert hooks.loss(Bare(entry()), torch.ones(1)).item() == 1
    assert hooks.describe(entry()) == {"a": "b"}


def test_a_quantizer_and_an_adapter_kind_of_two_rows(site):
    files = {
        "zoo_pair/__init__.py": "",
        "zoo_pair/codec.py": "import zoo\nzoo.hooks(quantize='.work')\n",
        "zoo_pair/kind.py": "import zoo\nzoo.hooks(inject_adapter='.work', adapter_config='.work')\n",
        "zoo_pair/work.py": "import zoo\ndef quantize(weight): return weight * 2\n"
        "def adapter_config(raw): return None\n"
        "def inject_adapter(weight, config): return zoo.LoRAUpdate(weight.shape, config.rank, 1.0)\n",
    }
    site.install("zoo-pair", {"codec": "zoo_pair.codec", "kind": "zoo_pair.kind"}, files)
    kinds = {row.name: row.kind for row in plugin_status.plugins("quick", ("codec", "kind"))}
    assert kinds == {"codec": "quantizer", "kind": "adapter kind"}
    assert "zoo_pair.work" not in sys.modules

    class Scheme:
        scheme, bits, builtin = "codec", 4, False

    class Config(zoo.LoRA):
        kind = "kind"

    weight = torch.ones(2, 2)
    assert torch.equal(hooks.quantize(zoo.Entry("x", None), "w", weight, Scheme()), weight * 2)
    assert isinstance(hooks.inject_adapter(zoo.Entry("x", None), "w", weight, Config(rank=1)), zoo.LoRAUpdate)


def test_two_names_may_point_at_one_table(site):
    site.install("zoo-two", {"mine": "zoo_mine", "ours": "zoo_mine"}, {f"zoo_mine/{n}": t for n, t in FILES.items()})
    for name in ("mine", "ours"):
        assert isinstance(hooks.construct(entry(name)), nn.Linear)


def test_a_module_may_be_loaded_again(site):
    from importlib import reload

    install(site)
    reload(hooks.load("mine"))
    assert hooks.describe(entry()) == {"who": "some-model"}


def test_the_public_function_is_lazy():
    assert zoo.hooks is table.hooks
    assert "hooks" in zoo.__all__


# Arguments that go away


def test_a_deprecated_argument_warns_where_the_function_takes_it_and_only_there(site, monkeypatch):
    going = {
        "warn_on_impl_args": {"entry": DeprecationWarning("zoo 0.3 removes describe's argument entry: take facts")}
    }
    monkeypatch.setattr(hookspecs.describe, "zoo_spec", {**hookspecs.describe.zoo_spec, **going})
    for takes, code in ((False, "def describe(): return {}"), (True, "def describe(entry): return {}")):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            install_named(site, f"mine{takes}".lower(), code)
            assert hooks.describe(entry(f"mine{takes}".lower())) == {}
        assert [str(one.message) for one in told] == ["zoo 0.3 removes describe's argument entry: take facts"] * takes


def install_named(site, name: str, code: str) -> None:
    files = {f"zoo_{name}/__init__.py": with_table('describe=".facts"'), f"zoo_{name}/facts.py": code}
    site.install(f"zoo-{name}", {name: f"zoo_{name}"}, files)


def test_every_hook_may_be_a_row(site):
    """And the function gets each of the hook's arguments under its name."""
    for hook in hooks.HOOKS:
        known = hookspecs.__dict__[hook].__code__
        names = known.co_varnames[: known.co_argcount]
        code = f"def {hook}({', '.join(names)}): return dict({', '.join(f'{n}={n}' for n in names)})"
        name = hook.replace("_", "")
        site.install(
            f"zoo-{name}",
            {name: f"zoo_{name}"},
            {f"zoo_{name}/__init__.py": with_table(f"{hook}='.work'"), f"zoo_{name}/work.py": code},
        )
        given = {argument: object() for argument in names}
        assert manager.caller(hook, name)(**given) == given


def test_zoo_list_does_not_import_a_tables_module(site):
    install(site)
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from zoo.cli import main; done = main(sys.argv[1:])\n"
        "assert not done and not {'torch', 'zoo_mine', 'zoo_mine.model'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(site.folder), "list"], capture_output=True, text=True, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr
