"""A plugin as a table: declared without an import, resolved on first use, and blamed as decorated functions are."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

import zoo
from zoo.cli import plugin_status
from zoo.errors import DataError, PluginError
from zoo.plugin import hooks, hookspecs, manager, table

INIT = """
    import zoo

    zoo.hooks(
        construct=".model",
        loss=".training",
        batches=".training:endless",
        describe=lambda entry: {"who": entry.name},
    )

    @zoo.hookimpl
    def recognises(config):
        return config.get("model_type") == "mine"
"""
MODEL = """
    from torch import nn

    def construct(entry):
        return nn.Linear(2, entry.config.get("width", 3))
"""
TRAINING = """
    import torch

    calls = []

    def loss(batch):
        calls.append("loss")
        return batch.sum()

    def endless(data, request, *, model, skip=0):
        while True:
            yield torch.full((request.batch_size,), float(data + skip))
"""
FILES = {"__init__.py": INIT, "model.py": MODEL, "training.py": TRAINING}


class Bare:
    """What the functions of `zoo.plugin.hooks` look at of a model."""

    def __init__(self, entry: zoo.Entry) -> None:
        self.entry = entry


def entry(plugin: str = "mine", **more) -> zoo.Entry:
    return zoo.Entry("some-model", plugin, **more)


def install(site, files: dict[str, str] | None = None, **changed: str) -> None:
    """The plugin `mine` of the package zoo_mine, with some of its files changed."""
    files = {**(files or FILES), **{f"{name}.py": text for name, text in changed.items()}}
    site.install("zoo-mine", {"mine": "zoo_mine"}, {f"zoo_mine/{name}": text for name, text in files.items()})


def with_table(row: str) -> str:
    return f"import zoo\nzoo.hooks({row})\n"


# What works


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
        "import zoo_mine; from zoo.testing.fresh import HEAVY\n"
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


# What is refused when the table is declared

DECLARED = {
    "an unknown hook": ('smaple=".model"', "zoo.hooks in zoo_mine: there is no hook 'smaple'. Did you mean 'sample'?"),
    "a number": ("loss=3", "expected loss='.module', '.module:function' or a function, got 3"),
    "nothing": ('loss=""', "expected loss='.module', '.module:function' or a function, got ''"),
    "two functions": ('loss=".a:b:c"', "expected loss='.module'"),
    "a sentence": ('loss="my module"', "got 'my module'"),
}


@pytest.mark.parametrize("kind", DECLARED)
def test_what_cannot_be_declared(site, kind):
    row, said = DECLARED[kind]
    install(site, __init__=with_table(row))
    with pytest.raises(PluginError, match=r"plugin 'mine' \(zoo-mine 1\.0\) cannot be used") as caught:
        hooks.construct(entry())
    assert said in str(caught.value)
    assert caught.value.plugin == "mine"


def test_a_plugin_of_one_file_has_no_modules_beside_it(site):
    site.install("zoo-mine", {"mine": "zoo_mine"}, {"zoo_mine.py": with_table('loss=".training"')})
    with pytest.raises(
        PluginError, match=r"expected a module's full name, as this one is in no package, got '\.training'"
    ):
        hooks.load("mine")


def test_a_hook_that_is_implemented_twice(site):
    code = (
        with_table('loss=".training", describe=".model"') + "@zoo.hookimpl\ndef loss(batch):\n    return batch.sum()\n"
    )
    install(site, __init__=code)
    with pytest.raises(PluginError, match="cannot be used: it implements 'loss' twice: leave it out of the table"):
        hooks.load("mine")


def test_no_hook_at_all_names_the_table(site):
    install(site, __init__="import zoo\nzoo.hooks()\n")
    with pytest.raises(PluginError, match=r"it implements no hook: expected .* or a table zoo\.hooks"):
        hooks.load("mine")


# What is refused on first use

RESOLVED = {
    "a module": ('loss=".trainng"', "there is no module 'zoo_mine.trainng'. Did you mean '.training'?"),
    "a module without its dot": ('loss="training"', "there is no module 'training'. Did you mean '.training'?"),
    "a package": ('loss=".parts.training"', "there is no module 'zoo_mine.parts.training'"),
    "a function": ('loss=".training:lss"', "zoo_mine.training has no function 'lss'. Did you mean 'loss'?"),
    "the hook's function": ('evaluate=".training"', "zoo_mine.training has no function 'evaluate'"),
    "an argument": ('loss=".odd"', "it takes the argument 'batsch'. Did you mean 'batch'? The hook has model, batch"),
    "an argument of a lambda": ("loss=lambda modle: 0", "it takes the argument 'modle'. Did you mean 'model'?"),
    "an argument by position": ('loss=".odd:by_position"', "it takes the argument 'batch'"),
}
ODD = "def loss(model, batsch): ...\ndef by_position(batch, /): ...\n"


@pytest.mark.parametrize("kind", RESOLVED)
def test_what_is_not_there_or_does_not_fit_names_plugin_and_hook(site, kind):
    row, said = RESOLVED[kind]
    hook = row.partition("=")[0]
    install(site, __init__=with_table(f'{row}, construct=".model"'), odd=ODD)
    calls = {
        "loss": lambda: hooks.loss(Bare(entry()), torch.ones(1)),
        "evaluate": lambda: hooks.evaluate(Bare(entry()), None),
    }
    assert isinstance(hooks.construct(entry()), nn.Linear)  # the other hooks work
    for _ in range(2):
        with pytest.raises(PluginError) as caught:
            calls[hook]()
        assert str(caught.value).startswith(f"plugin 'mine', hook '{hook}', zoo.hooks({hook}=")
        assert said in str(caught.value)
        assert (caught.value.plugin, caught.value.hook) == ("mine", hook)


FAILING = {
    "a library": ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
    "syntax": ("def loss(:", "SyntaxError"),
    "exit": ("raise SystemExit(3)", "SystemExit: 3"),
    "error": ("1 / 0", "ZeroDivisionError"),
}


@pytest.mark.parametrize("kind", FAILING)
def test_a_module_that_cannot_be_imported_is_its_plugins_failure(site, monkeypatch, kind):
    code, said = FAILING[kind]
    install(site, training=code)
    with pytest.raises(PluginError, match="plugin 'mine' failed in its hook 'loss'") as caught:
        hooks.loss(Bare(entry()), torch.ones(1))
    assert said in str(caught.value)
    assert (caught.value.plugin, caught.value.hook) == ("mine", "loss")
    monkeypatch.setenv("ZOO_STRICT", "1")
    with pytest.raises((ImportError, SyntaxError, SystemExit, ZeroDivisionError)):
        hooks.loss(Bare(entry()), torch.ones(1))


def test_a_broken_table_breaks_no_other_plugin(site):
    install(site, __init__=with_table('recognises=".gone", construct=".model"'))
    good = {
        "zoo_good/__init__.py": with_table('recognises=".facts"'),
        "zoo_good/facts.py": "def recognises(config): return 'good' in config",
    }
    site.install("zoo-good", {"good": "zoo_good"}, good)
    assert hooks.recognise({"good": 1}) == ("good",)
    with pytest.raises(PluginError, match=r"no module 'zoo_mine\.gone'"):
        manager.caller("recognises", "mine")


# Who is blamed

LOSING = "def loss(batch):\n    raise ValueError('lost')\n"


def test_an_exception_in_a_tables_function_is_its_plugins(site, monkeypatch):
    install(site, training=LOSING)
    with pytest.raises(PluginError, match="plugin 'mine' failed in its hook 'loss': ValueError: lost") as caught:
        hooks.loss(Bare(entry()), torch.ones(1))
    assert isinstance(caught.value.__cause__, ValueError)
    assert (caught.value.plugin, caught.value.hook) == ("mine", "loss")
    monkeypatch.setenv("ZOO_STRICT", "1")
    with pytest.raises(ValueError, match="lost"):
        hooks.loss(Bare(entry()), torch.ones(1))


def test_a_generators_later_exception_and_a_users_mistake(site):
    install(
        site,
        training="import zoo\ndef endless(data):\n    yield 1\n    1 / 0\n\ndef loss(batch):\n"
        "    raise zoo.DataError('no')\n",
    )
    stream = hooks.batches(Bare(entry()), None, zoo.BatchRequest(1))
    assert next(stream) == 1
    with pytest.raises(PluginError, match="plugin 'mine' failed in its hook 'batches': ZeroDivisionError"):
        next(stream)
    with pytest.raises(DataError, match=r"^no$"):
        hooks.loss(Bare(entry()), None)


def test_a_wrong_answer_is_named(site):
    install(site, training="def loss(batch):\n    return 3\n")
    with pytest.raises(
        hooks.AnswerError, match="'mine' broke the contract of its hook 'loss': expected a scalar"
    ) as caught:
        hooks.loss(Bare(entry()), None)
    assert (caught.value.plugin, caught.value.hook) == ("mine", "loss")


class Watching:
    def __init__(self) -> None:
        self.seen = []

    @zoo.hookimpl(wrapper=True)
    def loss(self, model):
        self.seen.append(model.entry.plugin)
        return (yield)


class Failing:
    @zoo.hookimpl(wrapper=True)
    def loss(self):
        yield
        raise KeyError("the observer's own")


def test_an_observer_sees_a_tables_functions_and_is_blamed_for_itself_alone(site):
    install(site)
    watching = Watching()
    hooks.register(watching, "watching")
    assert hooks.loss(Bare(entry()), torch.ones(2)).item() == 2
    assert watching.seen == ["mine"]
    sys.modules["zoo_mine.training"].calls = None  # whose .append then fails
    with pytest.raises(PluginError, match="plugin 'mine' failed in its hook 'loss': AttributeError"):
        hooks.loss(Bare(entry()), torch.ones(2))
    hooks.register(Failing(), "failing")
    sys.modules["zoo_mine.training"].calls = []
    with pytest.raises(PluginError, match="plugin 'failing' failed in its hook 'loss': KeyError"):
        hooks.loss(Bare(entry()), torch.ones(2))


def test_a_wrapper_beside_a_table_sees_its_own_plugin_alone(site):
    wrapper = "@zoo.hookimpl(wrapper=True)\ndef loss(batch):\n    return 2 * (yield)\n"
    install(site, __init__=with_table('construct=".model", loss=".training"') + wrapper)
    site.install("zoo-other", {"other": "zoo_other"}, {"zoo_other.py": with_table("loss=lambda batch: batch.sum()")})
    assert not hooks.observes("mine")
    assert hooks.loss(Bare(entry()), torch.ones(3)).item() == 6
    assert hooks.loss(Bare(entry("other")), torch.ones(3)).item() == 3


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
