"""What is refused of a plugin's table, when and by which name, and who is blamed for what its functions do."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

import zoo
from zoo.errors import DataError, PluginError
from zoo.plugin import hooks, manager
from zoo.plugin.table import forgotten

from .helpers import Bare, entry, install, with_table

# What is refused when the table is declared

DECLARED = {
    "an unknown hook": ('smaple=".model"', "zoo.hooks in zoo_mine: there is no hook 'smaple'. Did you mean 'sample'?"),
    "a number": ("loss=3", "expected loss='.module', '.module:function' or a function, got 3"),
    "nothing": ('loss=""', "expected loss='.module', '.module:function' or a function, got ''"),
    "two functions": ('loss=".a:b:c"', "expected loss='.module'"),
    "a sentence": ('loss="my module"', "got 'my module'"),
}


FORGOTTEN = """
    from zoo_mine.model import construct

    def loss(batch):
        return batch.sum()

    def evaluate(model, data):
        return {}

    def sample(images):
        return images

    def describe(entry):
        return {}
"""
DESCRIBES = "@zoo.hookimpl\ndef describe(entry):\n    return {}\n"


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
    with pytest.warns(UserWarning, match=r"passed over: plugin 'mine'.* there is no module 'zoo_mine\.gone'"):
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


def test_a_hook_that_the_table_forgets(site):
    """A function that is a hook's by name and arguments; one of the same name with its own arguments is a helper."""
    install(site, __init__=with_table('loss=".training"') + DESCRIBES, training=FORGOTTEN)
    assert forgotten(hooks.load("mine")) == ["zoo_mine.training:evaluate"]
