from __future__ import annotations

import pytest

import zoo
from zoo.plugin import hooks
from zoo.plugin.hooks import AnswerError

from .helpers import Bare, entry, plugin_module


@pytest.mark.parametrize(
    ("option", "value"),
    [
        (zoo.Option("x", 5, "x", low=1, high=9), 9),
        (zoo.Option("x", 0.5, "x", above=0, high=1), 1.0),
        (zoo.Option("x", None, "x", "int"), None),
        (zoo.Option("x", "a", "x", choices=("a", "b")), "b"),
        (zoo.Option("x", "", "x"), "text"),
        (zoo.Option("x", None, "x", "texts"), ["one", "two"]),
        (zoo.Option("x", True, "x"), False),
    ],
)
def test_values_that_can_be(option, value):
    assert option.check(value) == value


def test_a_whole_number_for_a_number_becomes_one():
    assert isinstance(zoo.Option("x", 0.5, "x").check(1), float)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        (
            zoo.Option("x", 5, "how many", low=1, high=9),
            10,
            "x: expected a whole number from 1 to 9, got 10; it is: how",
        ),
        (zoo.Option("x", 5, "x"), 2.5, "a whole number"),
        (zoo.Option("x", 5, "x"), True, "a whole number"),
        (zoo.Option("x", 5, "x"), None, "a whole number"),
        (zoo.Option("x", 0.5, "x", above=0), 0, "a number above 0"),
        (zoo.Option("x", 0.5, "x"), float("nan"), "a number"),
        (zoo.Option("x", None, "x", "int", 1), 0, "a whole number from 1, or None"),
        (zoo.Option("x", "ddim", "x", choices=("ddim", "ddpm")), "ddin", "'ddim', 'ddpm'.*Did you mean 'ddim'"),
        (zoo.Option("x", True, "x"), 1, "true or false"),
        (zoo.Option("x", "", "x"), 3, "a text"),
    ],
)
def test_values_that_cannot_be(option, value, message):
    with pytest.raises(zoo.ZooError, match=message):
        option.check(value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x y", 1, "x"), "a word"),
        (("x", None, "x"), "expected a type"),
        (("x", 1, "x", "integer"), "Did you mean 'int'"),
        (("x", 10, "x", "int", 0, 5), "from 0 to 5, got 10"),
    ],
)
def test_options_that_cannot_be(arguments, message):
    with pytest.raises(zoo.ZooError, match=message):
        zoo.Option(*arguments)


def plugin(*options, **more):
    seen = []

    def sample(model, request):
        seen.append(request.take(**more))
        return zoo.Samples(["a"] * request.n, "text")

    plugin_module("declared", sample=sample, sample_options=lambda entry: list(options))
    return Bare(entry("declared")), seen


def test_declared_options_are_checked_before_the_plugin_is_asked(site):
    model, seen = plugin(zoo.Option("steps", 50, "steps", low=1), zoo.Option("eta", 0.0, "noise"))
    hooks.sample(model, zoo.SampleRequest(options={"eta": 1}))
    assert seen == [{"steps": 50, "eta": 1.0}]
    with pytest.raises(zoo.ZooError, match="steps: expected"):
        hooks.sample(model, zoo.SampleRequest(options={"steps": 0}))
    with pytest.raises(zoo.UnknownNameError, match="Did you mean 'steps'"):
        hooks.sample(model, zoo.SampleRequest(options={"step": 1}))
    assert len(seen) == 1


def test_a_default_of_the_moment_counts_instead_of_the_declared_one(site):
    model, seen = plugin(zoo.Option("steps", 50, "steps"), zoo.Option("eta", 0.0, "noise"), steps=7)
    hooks.sample(model, zoo.SampleRequest())
    hooks.sample(model, zoo.SampleRequest(options={"steps": 9}))
    assert seen == [{"steps": 7, "eta": 0.0}, {"steps": 9, "eta": 0.0}]


def test_a_default_of_an_option_that_is_not_declared(site):
    model, _ = plugin(zoo.Option("steps", 50, "steps"), eta=1.0)
    with pytest.raises(zoo.UnknownNameError, match="no sampling option 'eta'"):
        hooks.sample(model, zoo.SampleRequest())


@pytest.mark.parametrize("answer", [5, [1], [zoo.Option("x", 1, "x"), zoo.Option("x", 2, "x")]])
def test_answers_that_are_no_options(site, answer):
    plugin_module("wrong", sample_options=lambda entry: answer)
    with pytest.raises(AnswerError, match="sample_options"):
        hooks.sample_options(entry("wrong"))


@pytest.mark.parametrize("answer", ["text", [], ["sound"], 5])
def test_answers_that_are_no_kinds_of_samples(site, answer):
    plugin_module("wrong", sample_kinds=lambda entry: answer)
    with pytest.raises(AnswerError, match="sample_kinds"):
        hooks.sample_kinds(entry("wrong"))


@pytest.mark.parametrize(
    ("problem", "architecture", "kinds"),
    [
        (None, "BertForSequenceClassification", ["posterior"]),
        ("multi_label_classification", "BertForSequenceClassification", ["probabilities"]),
        ("regression", "BertForSequenceClassification", ["text"]),
        (None, "BertForTokenClassification", ["text"]),
        (None, "BertForMaskedLM", ["text"]),
    ],
)
def test_kinds_of_a_model_of_texts_are_those_of_its_head(problem, architecture, kinds):
    from zoo.integrations.transformers_heads import sample_kinds

    config = {"model_type": "bert", "architectures": [architecture], "problem_type": problem, "num_labels": 3}
    assert sample_kinds(config) == kinds


@pytest.mark.parametrize("name", ["bert", "ddpm", "gat", "gpt", "stylegan", "vae", "vit"])
def test_every_architecture_declares_its_options(name):
    from zoo.loading.resolve import resolve

    options = hooks.sample_options(resolve(name))
    assert options
    assert all(option.help for option in options)
