"""What a check can be told: which model, with which weights, data and options; and what the plugin itself says."""

from __future__ import annotations

import json

import pytest
import torch

from zoo.catalog import registry
from zoo.errors import PluginError
from zoo.testing import check_plugin, examine, random_weights
from zoo.testing.subject import PluginUnderTest

INIT = "zoo_toy/__init__.py"
TABLE = "zoo_toy/registry.toml"
CONFIG = {"model_type": "toy", "size": 6, "width": 12}
INLINE = '\n[toy.config]\nmodel_type = "toy"\nsize = 8\nwidth = 16\n'
NO_RECOGNISES = ('@zoo.hookimpl\ndef recognises(config):\n    return config.get("model_type") == "toy"\n', "")


def test_a_small_model_without_weights_is_checked_with_random_ones(install):
    install(
        "toy", {TABLE: [('weights = "embedded"\n', ""), ("[toy]", "[toy]"), ('"decode"]\n', f'"decode"]\n{INLINE}')]}
    )
    results = check_plugin("toy")
    assert len(results) > 45
    assert {result.check for result in results if result.ok is None} == set()
    first, again = PluginUnderTest("toy"), PluginUnderTest("toy")
    assert first.source[1] != again.source[1]
    assert torch.equal(first.plain.module.encode.weight, again.plain.module.encode.weight)


def test_a_configuration_is_checked_with_random_weights(install):
    install("toy")
    with PluginUnderTest("toy", {"config": CONFIG}) as subject:
        assert subject.plain.module.encode.weight.shape == (12, 6)
    assert all(result.ok for result in check_plugin("toy", config=CONFIG))


@pytest.mark.parametrize("recognised", [True, False])
def test_a_folder_is_checked(install, site, recognised):
    install("toy", {} if recognised else {INIT: [NO_RECOGNISES]})
    folder = site.folder / "zoo_toy" / "embedded"
    (folder / "config.json").write_text(json.dumps({"model_type": "toy", "size": 8, "width": 16, "more": 1}))
    with PluginUnderTest("toy", {"folder": folder}) as subject:
        assert subject.entry().config["more"] == 1
        assert subject.entry().folder == folder
    results = check_plugin("toy", folder=folder)
    assert [result.check for result in results if result.ok is None] == ([] if recognised else ["recognises-its-own"])


def test_a_plugin_without_any_registry_is_checked_through_what_it_recognises(install, site):
    install("toy")
    (site.folder / TABLE).unlink()
    registry.forget()
    assert all(result.ok for result in check_plugin("toy", config=CONFIG))
    with pytest.raises(PluginError, match=r"no model to be checked with: give its registry\.toml an entry .* config="):
        check_plugin("toy")


def test_a_plugin_whose_models_have_no_name_is_told_so(install, site):
    install("toy", {INIT: [NO_RECOGNISES]})
    (site.folder / TABLE).unlink()
    registry.forget()
    with pytest.raises(PluginError, match=r"loaded under no name: give it an entry in a registry\.toml .* recognises"):
        check_plugin("toy", config=CONFIG)


def test_a_large_model_is_not_made_at_random(install, monkeypatch):
    install("toy", {TABLE: [('weights = "embedded"\n', ""), ('"decode"]\n', f'"decode"]\n{INLINE}')]})
    monkeypatch.setattr(random_weights, "SMALL", 100)
    with pytest.raises(PluginError, match="no model to be checked with"):
        check_plugin("toy")
    with PluginUnderTest("toy", {"entry": "toy"}) as subject:  # unless it is asked for
        assert subject.plain.module.encode.weight.shape == (16, 8)


def test_an_entry_that_is_not_the_plugins_is_refused(install):
    install("toy")
    with pytest.raises(PluginError, match="has no registry entry 'gpt2'"):
        check_plugin("toy", entry="gpt2")


OPTIONS = '{"batch_size": 5, "sample": {"spread": 0.5}}'


@pytest.mark.parametrize("form", [f"CONFORMANCE = {OPTIONS}", f"def CONFORMANCE():\n    return {OPTIONS}"])
def test_the_plugins_own_options_count_where_nothing_else_is_said(install, form):
    own = f"{form}\n\n\n@zoo.hookimpl\ndef loss"
    install("toy", {INIT: [("@zoo.hookimpl\ndef loss", own)]})
    assert PluginUnderTest("toy").options.batch_size == 5
    assert PluginUnderTest("toy").options.sample == {"spread": 0.5}
    assert PluginUnderTest("toy", {"batch_size": 3}).options.batch_size == 3
    assert len(PluginUnderTest("toy").batch["x"]) == 5


def test_an_option_that_does_not_exist_is_refused(install):
    install("toy")
    with pytest.raises(PluginError, match=r"no option 'batchsize' of a check\. Did you mean 'batch_size'\?"):
        check_plugin("toy", batchsize=3)


def test_unused_weights_need_no_gradient(install):
    old = "torch.tanh(self.norm(self.encode(x)))"
    install("toy", {"zoo_toy/model.py": [(old, "torch.tanh(self.norm(self.encode(x).detach()))")]})
    results = {result.check: result for result in examine("toy", unused=("encode",))}
    assert results["every-adapted-weight-learns"].ok
    results = {result.check: result for result in examine("toy")}
    assert results["every-adapted-weight-learns"].ok is False


def test_data_and_batch_size_are_what_the_hooks_get(install):
    install("toy")
    data = torch.randn(40, 8)
    with PluginUnderTest("toy", {"data": data, "batch_size": 7}) as subject:
        assert any(torch.equal(subject.batch["x"][0], row) for row in data)
        assert len(subject.batch["x"]) == 7


def test_widths_and_configurations_can_be_given(install):
    install("round")
    assert all(result.ok for result in check_plugin("round", bits=(3,)))
    with pytest.raises(PluginError, match="round stores 3, 4 or 8 bits, got bits=5"):
        check_plugin("round", bits=(5,))
    needs = [("targets: zoo.Targets = None", "targets: zoo.Targets"), ("strength: float = 1.0", "strength: float")]
    install("gain", {"zoo_gain/gain.py": needs})
    with pytest.raises(PluginError, match="Fix: give every field of the configuration a default"):
        check_plugin("gain")
    from zoo_gain.gain import Gain

    assert all(result.ok is not False for result in check_plugin("gain", adapter=Gain("all", 0.5)))
