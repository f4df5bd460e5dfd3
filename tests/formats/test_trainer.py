"""transformers' Trainer on a managed module: checkpoints of the adapters, the best one, and resuming bit for bit."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import zoo
from zoo.errors import StateDictError

IDS = torch.arange(12).view(1, 12)


class Lines(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __init__(self, count: int, seed: int) -> None:
        self.ids = torch.randint(0, 60, (count, 12), generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.ids[index], "labels": self.ids[index]}


def gpt() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": 60, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, loss_type="ForCausalLMLoss"))


def adapted(**more: Any) -> zoo.Model:
    return zoo.wrap(gpt(), bits=4, lora=zoo.LoRA(rank=2, dropout=0.1, **more), seed=1)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch|transformers|accelerate")
        yield


def trainer(model: zoo.Model, out: Path, stop: int | None = None, **more: Any) -> Any:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop |= state.global_step == stop

    options = {"max_steps": 6, "save_steps": 2, "eval_steps": 2, "eval_strategy": "steps", "learning_rate": 0.03}
    options |= {"per_device_train_batch_size": 4, "report_to": [], "use_cpu": True, "disable_tqdm": True}
    made = TrainingArguments(str(out), **{**options, **more})
    return Trainer(model.module, made, train_dataset=Lines(32, 0), eval_dataset=Lines(8, 1), callbacks=[Stop()])


def test_a_resumed_run_is_bit_identical_and_its_checkpoints_are_adapters(tmp_path: Path) -> None:
    whole, first, second = adapted(), adapted(), adapted()
    trainer(whole, tmp_path / "whole").train()
    trainer(first, tmp_path / "paused", stop=4).train()
    trainer(second, tmp_path / "paused").train(resume_from_checkpoint=str(tmp_path / "paused" / "checkpoint-4"))
    expected, found = whole.module.state_dict(), second.module.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    folder = tmp_path / "whole" / "checkpoint-6"
    assert {"adapter_config.json", "adapter_model.safetensors", "zoo.json"} <= {path.name for path in folder.iterdir()}
    assert all(".updates." in name for name in load_file(folder / "model.safetensors"))
    with torch.no_grad():
        again = zoo.wrap(gpt().eval(), bits=4, lora=folder)
        assert torch.equal(again(IDS).logits, whole.eval()(IDS).logits)


def test_the_best_model_comes_back(tmp_path: Path) -> None:
    """The one of the highest loss here, which is the first."""
    model = adapted(modules_to_save=["ln_f"])
    run = trainer(model, tmp_path, load_best_model_at_end=True, greater_is_better=True)
    run.train()
    assert run.state.best_metric == pytest.approx(run.evaluate()["eval_loss"], abs=0)
    assert run.state.best_model_checkpoint == str(tmp_path / "checkpoint-2")
    with torch.no_grad():
        again = zoo.wrap(gpt().eval(), bits=4, lora=run.state.best_model_checkpoint)
        assert torch.equal(again(IDS).logits, model.eval()(IDS).logits)


def test_others_get_dense_weights_which_do_not_come_back_in_silence(tmp_path: Path) -> None:
    from transformers import GPT2LMHeadModel

    model = adapted().eval()
    model.module.save_pretrained(tmp_path / "dense")
    dense = GPT2LMHeadModel.from_pretrained(tmp_path / "dense").eval()
    with torch.no_grad():
        torch.testing.assert_close(dense(IDS).logits, model(IDS).logits)
    with pytest.raises(StateDictError):
        model.module.load_state_dict(load_file(tmp_path / "dense" / "model.safetensors"), strict=False)


def test_several_adapters_and_merged_ones(tmp_path: Path) -> None:
    model = adapted()
    model.add_adapter("other", 2)
    trainer(model, tmp_path).save_model(str(tmp_path / "two"))
    assert (tmp_path / "two" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "two" / "other" / "adapter_model.safetensors").is_file()
    model.merge("other")
    trainer(model, tmp_path).save_model(str(tmp_path / "merged"))
    assert "transformer.wte.weight" in load_file(tmp_path / "merged" / "model.safetensors")
    assert not (tmp_path / "merged" / "adapter_model.safetensors").exists()
