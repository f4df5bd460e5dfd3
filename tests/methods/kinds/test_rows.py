"""`trainable_token_indices`: chosen rows of an embedding, and of a head that is tied to it, as PEFT trains them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import zoo
from zoo.errors import AdapterError, WeightError
from zoo.weights.walk import managed_weights

NEW = [66, 64, 67, 65]
IDS = torch.tensor([[1, 2, 64, 65, 66, 7], [67, 62, 1, 0, 64, 3]])


def llama(tied: bool, seed: int = 1) -> nn.Module:
    """Return a model of 64 tokens, always the same, with four new ones that `seed` draws."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes, tie_word_embeddings=tied))
        torch.manual_seed(seed)
        model.resize_token_embeddings(68, mean_resizing=False)
    return model.eval()  # type: ignore[no-any-return]


@torch.no_grad()
def run(model: Any) -> Tensor:
    return model(IDS).logits  # type: ignore[no-any-return]


def close(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).norm() <= 1e-5 * other.norm())


@torch.no_grad()
def stir(parameters: Any) -> None:
    for parameter in parameters:
        parameter.copy_(0.3 * torch.randn_like(parameter))


INDICES: list[Any] = [NEW, {"embed_tokens": NEW}, {"embed_tokens": NEW, "lm_head": NEW}]


@pytest.mark.parametrize("indices", INDICES, ids=["list", "dict", "both"])
@pytest.mark.parametrize("tied", [True, False])
def test_peft_and_zoo_read_each_other(indices: Any, tied: bool, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    more = {"target_modules": ["q_proj"], "trainable_token_indices": indices}
    theirs = peft.get_peft_model(llama(tied), peft.LoraConfig(r=2, lora_alpha=4, **more)).eval()
    stir(parameter for parameter in theirs.parameters() if parameter.requires_grad)
    theirs.save_pretrained(str(tmp_path / "theirs"))
    assert close(run(zoo.wrap(llama(tied), lora=tmp_path / "theirs")), run(theirs))
    path = tmp_path / "theirs" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "ensure_weight_tying": True}))
    assert close(run(zoo.wrap(llama(tied), lora=tmp_path / "theirs")), run(theirs))
    lora = zoo.LoRA(rank=2, alpha=4, targets=["q_proj"], trainable_token_indices=indices)
    ours = zoo.wrap(llama(tied), lora=lora)
    assert torch.equal(run(ours), run(llama(tied))), "a new one changes nothing"
    stir(parameter for _, parameter in ours.trainable_parameters())
    ours.save_adapter(tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "adapter_config.json").read_text())["peft_type"] == "LORA"
    read = peft.PeftModel.from_pretrained(llama(tied), str(tmp_path / "ours")).eval()
    assert close(run(read), run(ours))
    assert torch.equal(run(zoo.wrap(llama(tied), lora=tmp_path / "ours")), run(ours))
    if tied or "lm_head" in indices:  # nothing else of the base is random
        assert torch.equal(run(zoo.wrap(llama(tied, seed=2), lora=tmp_path / "ours")), run(ours))
    else:
        with pytest.raises(AdapterError, match=r"first in lm_head\.weight"):
            zoo.wrap(llama(tied, seed=2), lora=tmp_path / "ours")


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.parametrize("targets", [None, ["embed_tokens"]])
@pytest.mark.parametrize("tied", [True, False])
def test_rows_alone_as_peft_has_them(tied: bool, targets: list[str] | None, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.TrainableTokensConfig(token_indices=NEW, target_modules=targets)
    theirs = peft.get_peft_model(llama(tied), config).eval()
    stir(parameter for parameter in theirs.parameters() if parameter.requires_grad)
    theirs.save_pretrained(str(tmp_path / "theirs"))
    ours = zoo.wrap(llama(tied), lora=tmp_path / "theirs")
    assert close(run(ours), run(theirs))
    ours.add_adapter("new", zoo.TrainableTokens(token_indices=NEW[:2], targets=targets))
    ours.activate("new")
    assert torch.equal(run(ours), run(llama(tied)))
    stir(parameter for _, parameter in ours.trainable_parameters())
    ours.save_adapter(tmp_path / "ours", "new")
    read = peft.PeftModel.from_pretrained(llama(tied), str(tmp_path / "ours")).eval()
    assert close(run(read), run(ours))
    assert torch.equal(run(zoo.wrap(llama(tied), lora=tmp_path / "ours")), run(ours))


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("tied", [True, False])
def test_only_these_rows_train(tied: bool, bits: int | None) -> None:
    lora = zoo.LoRA(rank=2, targets=["q_proj"], trainable_token_indices=NEW)
    model = zoo.wrap(llama(tied), bits=bits, lora=lora)
    held = managed_weights(model.module)["model.embed_tokens.weight"]
    base = held.base_tensor().clone()
    optimizer = torch.optim.SGD([parameter for _, parameter in model.trainable_parameters()], 0.1)
    model.train()
    for _ in range(2):
        optimizer.zero_grad()
        model(IDS, labels=IDS).loss.backward()
        optimizer.step()
    model.eval()
    changed = (held.dense() - base).detach().norm(dim=1) > 0
    assert sorted(changed.nonzero().flatten().tolist()) == sorted(NEW)
    looked_up = model.module.model.embed_tokens(IDS)
    torch.testing.assert_close(looked_up, nn.functional.embedding(IDS, held.dense()))
    assert torch.equal(held.base_tensor(), base)
    expected = run(model)
    model.merge()
    assert close(run(model), expected)
    model.unmerge()
    assert torch.equal(run(model), expected)
    model.activate("default", weights=[0.5])
    torch.testing.assert_close(held.dense()[NEW], 0.5 * (base[NEW] + held.updates["default"].rows))


def test_gradients_are_those_of_a_dense_table() -> None:
    embed = nn.Embedding(9, 4, padding_idx=2)
    model = zoo.wrap(nn.Sequential(embed), lora=zoo.LoRA(rank=2, trainable_token_indices={"0": [8, 2, 5]}))
    (rows,) = (parameter for _, parameter in model.trainable_parameters())
    stir([rows])
    ids = torch.tensor([[8, 8, 2, 1], [5, 0, 2, 8]])
    found = model(ids)
    weight = embed.weight.dense().detach().requires_grad_()
    expected = nn.functional.embedding(ids, weight, padding_idx=2)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found.square().sum(), rows)
    (dense,) = torch.autograd.grad(expected.square().sum(), weight)
    torch.testing.assert_close(gradient, dense[[8, 2, 5]])


@pytest.mark.parametrize("named", [NEW, NEW[:2], []], ids=["all", "some", "none"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_whole_table_that_peft_writes_after_a_resize(tied: bool, named: list[int], tmp_path: Path) -> None:
    """PEFT finds the original vocabulary in the base's folder, and then writes embedding and head whole."""
    from transformers import LlamaForCausalLM

    peft = pytest.importorskip("peft")
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = llama(tied).config.__class__(vocab_size=64, **sizes, tie_word_embeddings=tied)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")

    def base(seed: int) -> nn.Module:
        module = LlamaForCausalLM.from_pretrained(tmp_path / "base")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            module.resize_token_embeddings(68, mean_resizing=False)
        return module.eval()  # type: ignore[no-any-return]

    more = {"trainable_token_indices": named} if named else {}
    theirs = peft.get_peft_model(base(1), peft.LoraConfig(r=2, target_modules=["q_proj"], **more)).eval()
    stir(parameter for parameter in theirs.parameters() if parameter.requires_grad)
    with pytest.warns(UserWarning, match="has been resized"):
        theirs.save_pretrained(str(tmp_path / "theirs"))
    assert [key for key in load_file(tmp_path / "theirs" / "adapter_model.safetensors") if "lm_head" in key]
    model = zoo.wrap(base(2), lora=tmp_path / "theirs")
    assert close(run(model), run(theirs))
    model.save_adapter(tmp_path / "ours")
    assert torch.equal(run(zoo.wrap(base(3), lora=tmp_path / "ours")), run(model))
    model.deactivate()
    assert torch.equal(run(model), run(base(2)))


def test_what_cannot_be() -> None:
    for indices in ([1, 1], [-1], ["1"], {"0": []}, {"": [1]}, 3, [True]):
        with pytest.raises(AdapterError, match="trainable_token_indices: expected"):
            zoo.LoRA(rank=2, trainable_token_indices=indices)  # type: ignore[arg-type]
    for lora, match in (
        (zoo.LoRA(rank=2, trainable_token_indices=[1]), "does not say which its input embedding is"),
        (zoo.LoRA(rank=2, trainable_token_indices={"2": [1]}), "'2' matches no layer with a table"),
        (zoo.LoRA(rank=2, trainable_token_indices={"0": [4]}), r"0\.weight has the rows 0 to 3, got 4: resize"),
        (zoo.LoRA(rank=2, trainable_token_indices={"0": [1]}, modules_to_save=["0"]), "got both"),
    ):
        with pytest.raises(AdapterError, match=match):
            zoo.wrap(nn.Sequential(nn.Embedding(4, 4), nn.Linear(4, 4)), lora=lora)
    with pytest.raises(AdapterError, match="keeps tied weights tied"):
        zoo.wrap(llama(True), lora=zoo.LoRA(rank=2, trainable_token_indices={"embed_tokens": [1], "lm_head": [2]}))


@pytest.mark.parametrize("bits", [None, 4])
def test_a_table_that_is_managed_is_not_resized(bits: int | None) -> None:
    model = zoo.wrap(llama(True), bits=bits, lora=2)
    expected = run(model)
    with pytest.raises(WeightError, match=r"expected shape \(68, 16\), got \(70, 16\): resize the embedding before"):
        model.module.resize_token_embeddings(70, mean_resizing=False)
    assert torch.equal(run(model), expected)
