"""Classes of every library load, quantize, adapt, save, and are read again by their library."""

from __future__ import annotations

import json

import pytest
import torch
from model_types import measure
from tiny_types import small_module
from type_subjects import subjects

import zoo
from zoo.plugin import hooks
from zoo_library.facts import recognises

WHOLE = {
    ("t5", "SEQ_TO_SEQ_CAUSAL_LM"): ["loss", "batches", "evaluate", "sample"],
    ("bart", "MASKED_LM"): ["loss", "batches", "evaluate", "sample"],
    ("whisper", "SPEECH_SEQ_2_SEQ"): ["loss", "batches", "evaluate"],
    ("clip", "ZERO_SHOT_IMAGE_CLASSIFICATION"): ["loss", "batches", "evaluate"],
    ("siglip", "ZERO_SHOT_IMAGE_CLASSIFICATION"): ["loss", "batches", "evaluate"],
    ("vit_mae", "PRETRAINING"): ["loss", "batches", "evaluate"],
    ("segformer", "SEMANTIC_SEGMENTATION"): ["loss", "batches", "evaluate"],
    ("bert", "QUESTION_ANSWERING"): ["loss", "batches", "evaluate"],
    ("bert", "MULTIPLE_CHOICE"): ["loss", "batches", "evaluate"],
    ("UNet2DConditionModel", "models"): [],
    ("DiTTransformer2DModel", "models"): [],
    ("Transformer2DModel", "models"): [],
    ("VQModel", "models"): [],
    ("AutoencoderTiny", "models"): [],
    ("GCN", "graphs"): [],
    ("GraphSAGE", "graphs"): [],
    ("GATConv", "graphs"): [],
    ("GATv2Conv", "graphs"): [],
    ("SAGEConv", "graphs"): [],
}


@pytest.fixture(scope="module")
def known():
    return {(subject.kind, subject.task): subject for subject in subjects()}


@pytest.mark.parametrize(("kind", "task"), WHOLE)
def test_a_class_goes_all_the_way(kind, task, known, tmp_path):
    row = measure(known[kind, task], tmp_path)
    assert not {"not made", "refused"} & row.keys(), row
    assert (row["plugin"], row["gradients"], row["saved"]) == ("library", True, True), row
    assert row["share"] > 0.5
    assert row["verbs"] == WHOLE[kind, task], row["reasons"]
    assert all(reason.startswith(("ZooError", "DataError")) for reason in row["reasons"].values())


def test_numbers_that_json_does_not_have(tmp_path):
    module = small_module("mamba2", "CAUSAL_LM", time_step_limit=(0.0, float("inf")))
    module.save_pretrained(tmp_path)
    assert "__float__" in (tmp_path / "config.json").read_text()
    assert zoo.load(str(tmp_path)).module.config.time_step_limit[1] == float("inf")


def test_another_plugin_comes_first():
    for config in ({"model_type": "llama"}, {"_class_name": "AutoencoderKL"}):
        assert recognises(config) == "fallback"
        assert hooks.recognise(config) in (("gpt",), ("vae",))
    assert hooks.recognise({"_class_name": "VQModel"}) == ("library",)
    assert hooks.recognise({"nothing": "known"}) == ()


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"architectures": ["OwnForCausalLM"], "model_type": "own"}, "model_type 'own'.*never run"),
        ({"architectures": ["T5ForConditionalGenerations"], "model_type": "t5"}, "Did you mean 'T5ForConditional"),
        ({"architectures": ["T5ForConditionalGeneration"], "model_type": "bart"}, "no class of model_type 'bart'"),
        ({"architectures": ["PreTrainedModel"], "model_type": "t5"}, "no class 'PreTrainedModel'"),
        ({"_class_name": "UNet2DConditionalModel"}, "no model 'UNet2DConditionalModel'.*Did you mean"),
        ({"_class_name": "load_lora"}, "no model 'load_lora'"),
    ],
)
def test_what_no_library_has_is_refused_by_name(config, says, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(zoo.CheckpointError, match=says):
        zoo.load(str(tmp_path))


def test_code_beside_a_checkpoint_is_not_run(tmp_path):
    small_module("t5", "SEQ_TO_SEQ_CAUSAL_LM").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoModelForSeq2SeqLM": "modeling_own.Own"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "modeling_own.py").write_text("raise SystemExit('run')")
    assert type(zoo.load(str(tmp_path)).module).__name__ == "T5ForConditionalGeneration"


def test_layers_of_graphs_are_told_apart_by_their_weights(tmp_path):
    from torch_geometric import nn

    (tmp_path / "config.json").write_text('{"in_channels": 4, "out_channels": 8}')
    torch.save(nn.GCNConv(4, 8).state_dict(), tmp_path / "model.pth")
    with pytest.raises(zoo.CheckpointError, match=r'GCNConv or HypergraphConv.*"class"'):
        zoo.load(str(tmp_path))
    (tmp_path / "config.json").write_text('{"in_channels": 4, "out_channels": 8, "class": "GCNConv"}')
    assert type(zoo.load(str(tmp_path)).module) is nn.GCNConv
    torch.save({"other": torch.ones(2)}, tmp_path / "model.pth")
    with pytest.raises(zoo.CheckpointError, match="no class of PyG has these weights"):
        zoo.load(str(tmp_path))
