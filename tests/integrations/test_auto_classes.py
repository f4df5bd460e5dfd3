"""Classes are looked up in transformers' own tables, without torch, and judged by their configuration's fields."""

from __future__ import annotations

import subprocess
import sys

import pytest

from zoo.integrations.auto_classes import classes_of, is_for, model_class, sees_later_tokens
from zoo.plugin import hooks


def test_the_tables_are_transformers_own() -> None:
    from transformers.models.auto import modeling_auto

    tables = [name for name in dir(modeling_auto) if name.startswith("MODEL_FOR_") and name.endswith("_MAPPING_NAMES")]
    assert len(tables) > 30
    for name in tables:
        theirs = getattr(modeling_auto, name)
        ours = classes_of(name.removeprefix("MODEL_FOR_").removesuffix("_MAPPING_NAMES"))
        assert {kind: (names,) if isinstance(names, str) else tuple(names) for kind, names in theirs.items()} == ours
    assert classes_of("NO_SUCH_TASK") == {}


def test_looking_up_imports_no_torch() -> None:
    code = """
        import sys
        from zoo.integrations.auto_classes import is_for
        assert is_for({"architectures": ["BertForMaskedLM"], "model_type": "bert"}, "MASKED_LM")
        assert not is_for({"architectures": ["OwnForMaskedLM"], "model_type": "bert"}, "MASKED_LM")
        assert "torch" not in sys.modules and "transformers" not in sys.modules
    """
    lines = "\n".join(line.strip() for line in code.strip().splitlines())
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "kind", "task", "is_it"),
    [
        ("LlamaForCausalLM", "llama", "CAUSAL_LM", True),
        ("MyLlamaForCausalLM", "llama", "CAUSAL_LM", False),  # ends alike
        ("LlamaForCausalLM", "mistral", "CAUSAL_LM", False),  # of another type
        ("BertGenerationDecoder", "bert-generation", "CAUSAL_LM", True),  # ends otherwise
        ("XLMWithLMHeadModel", "xlm", "MASKED_LM", True),
        (None, "llama", "CAUSAL_LM", True),
        (None, "t5", "CAUSAL_LM", False),
    ],
)
def test_a_class_counts_for_its_type(name: str | None, kind: str, task: str, is_it: bool) -> None:
    config = {"model_type": kind, **({"architectures": [name]} if name else {})}
    assert is_for(config, task) is is_it


@pytest.mark.parametrize("config", [{}, {"model_type": 3}, {"model_type": None, "architectures": "BertModel"}])
def test_any_configuration_may_be_asked(config: dict[str, object]) -> None:
    assert not is_for(config, "CAUSAL_LM", "")


def test_fields_say_who_sees_later_tokens() -> None:
    assert sees_later_tokens({"model_type": "bert"})
    assert sees_later_tokens({"model_type": "bert", "is_decoder": True}) is None
    assert "attn_type" in str(sees_later_tokens({"model_type": "xlnet"}))
    assert "causal" in str(sees_later_tokens({"model_type": "xlm"}))
    assert sees_later_tokens({"model_type": "xlm", "causal": True}) is None
    for kind in ("gpt2", "llama", "gpt_neox", "mamba", "rwkv"):
        assert sees_later_tokens({"model_type": kind}) is None, kind


def test_who_takes_what() -> None:
    def takes(name: str, kind: str, **fields: object) -> tuple[str, ...]:
        return hooks.recognise({"architectures": [name], "model_type": kind, **fields})

    assert takes("BertForMaskedLM", "bert") == ("bert",)
    assert takes("BertLMHeadModel", "bert") == ("library",)
    assert takes("BertLMHeadModel", "bert", is_decoder=True) == ("gpt",)
    assert takes("XLMWithLMHeadModel", "xlm") == ("bert",)
    assert takes("XLMWithLMHeadModel", "xlm", causal=True) == ("gpt",)
    assert takes("XLNetLMHeadModel", "xlnet") == ("library",)
    assert takes("BartForConditionalGeneration", "bart") == ("library",)
    assert takes("ModernVBertForMaskedLM", "modernvbert") == ("library",)
    assert takes("ViTForImageClassification", "vit") == ("vit",)
    assert takes("OwnForImageClassification", "vit") == ("library",)


def test_the_class_is_the_one_that_is_named() -> None:
    import transformers

    import zoo

    entry = zoo.Entry("it", None)
    named = {"architectures": ["T5EncoderModel"], "model_type": "t5"}
    assert model_class(entry, named) is transformers.T5EncoderModel
    assert model_class(entry, {"model_type": "t5"}) is transformers.T5Model
