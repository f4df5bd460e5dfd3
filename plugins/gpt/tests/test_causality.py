"""A later token moves no earlier logit of any type that gpt accepts; what sees later tokens is refused by name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import zoo
from zoo.integrations.auto_classes import classes_of
from zoo.testing.causality import moved_by_last_token
from zoo_gpt.facts import recognises

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
from tiny_types import VOCABULARY, small_module

SOME = ("bart", "bloom", "falcon", "gemma2", "gpt2", "gpt_neox", "llama", "mamba", "mpt", "opt", "qwen3_moe", "xglm")
# Bodies that look both ways unless they are decoders, and models that always do.
BOTH_WAYS = {"bert": "is_decoder", "roberta": "is_decoder", "xlnet": "attn_type", "xlm": "causal", "cpmant": "prompt"}


def accepted(kind: str, module: torch.nn.Module) -> bool:
    values = module.config.to_dict()
    values["model_type"] = module.config.model_type or kind
    return recognises({**values, "architectures": [type(module).__name__]})


def moved(kind: str, **changes: object) -> tuple[float, float] | None:
    """Return what a later token moves, of a type that gpt accepts; None of another."""
    torch.manual_seed(0)
    module = small_module(kind, "CAUSAL_LM", **changes)
    return moved_by_last_token(module, VOCABULARY) if accepted(kind, module) else None


def check(found: tuple[float, float] | None) -> None:
    assert found is not None, "gpt does not accept it"
    before, at = found
    assert at > 1e-3, "the last token changes nothing"
    assert before <= 1e-5 * at, f"a later token moves an earlier logit by {before}"


@pytest.mark.parametrize("kind", SOME)
def test_types_that_are_accepted_see_no_later_token(kind):
    check(moved(kind))


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra"])
def test_a_body_that_is_a_decoder_is_accepted(kind):
    check(moved(kind, is_decoder=True))


@pytest.mark.parametrize("kind", BOTH_WAYS)
def test_what_sees_later_tokens_is_refused_by_name(kind, tmp_path):
    module = small_module(kind, "CAUSAL_LM")
    assert not accepted(kind, module)
    before, _ = moved_by_last_token(module, VOCABULARY)
    assert before > 1e-3  # else the refusal would be wrong
    module.save_pretrained(tmp_path)
    with pytest.raises(zoo.CheckpointError, match=BOTH_WAYS[kind]):
        zoo.load("gpt", weights=str(tmp_path))


@pytest.mark.slow
def test_every_type_that_can_be_made_small():
    found: dict[str, list[str]] = {"causal": [], "leaks": [], "refused": [], "not made": []}
    for kind in classes_of("CAUSAL_LM"):
        for changes in ({}, {"is_decoder": True}):
            try:
                shift = moved(kind, **changes)
            except Exception:  # not made by the general rule, or not of text alone
                found["not made"].append(kind)
                continue
            if shift is None:
                found["refused"].append(kind)
                continue
            before, at = shift
            found["causal" if at > 1e-3 and before <= 1e-5 * at else "leaks"].append(kind)
            break
    print({name: sorted(set(kinds)) for name, kinds in found.items()})
    assert not found["leaks"], found["leaks"]
    assert len(found["causal"]) > 150
