"""What the suite takes as an error: every warning, except other libraries' about changes of their own."""

from __future__ import annotations

import warnings

import pytest

COMING = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
OWN = ("zoo", "zoo.weights.lazy_weight", "zoo_vit.model", __name__, "plugins.vit.tests.test_plugin", "conftest")
OTHERS = ("transformers.utils.deprecation", "torch.nn.modules.module", "zookeeper", "importlib._bootstrap", "testslide")


def warn(category: type[Warning], module: str, text: str = "goes in version 9") -> None:
    warnings.warn_explicit(text, category, "/somewhere/it.py", 1, module=module)


@pytest.mark.parametrize("category", COMING)
@pytest.mark.parametrize("module", OWN)
def test_what_our_own_code_calls_must_not_be_deprecated(module: str, category: type[Warning]) -> None:
    with pytest.raises(category):
        warn(category, module)


@pytest.mark.parametrize("category", COMING)
@pytest.mark.parametrize("module", OTHERS)
def test_what_other_libraries_call_may_be(module: str, category: type[Warning]) -> None:
    warn(category, module)


@pytest.mark.parametrize("module", [*OWN, *OTHERS])
@pytest.mark.parametrize("category", [UserWarning, RuntimeWarning, ResourceWarning])
def test_any_other_warning_is_an_error(category: type[Warning], module: str) -> None:
    with pytest.raises(category):
        warn(category, module)


def test_a_hook_that_zoo_deprecates_is_an_error_wherever_it_is() -> None:
    with pytest.raises(DeprecationWarning):
        warn(DeprecationWarning, "/somewhere/mine", "zoo 0.3 removes the hook preview")


def test_a_warning_counts_where_it_is_caused() -> None:
    with pytest.raises(FutureWarning):
        warnings.warn("goes in version 9", FutureWarning, stacklevel=1)
