"""Which bases an adapter's folder fits: those that are equal in what the adapter needs of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.errors import AdapterError


class Net(nn.Module):
    """A body that is always the same, and a head that is another one for each seed."""

    def __init__(self, seed: int = 0, rows: int = 20) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embed = nn.Embedding(20, 8)
            self.body = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
            torch.manual_seed(seed)
            self.head = nn.Linear(8, 3)
            if rows > 20:
                more = nn.Embedding(rows, 8)
                with torch.no_grad():
                    more.weight[:20] = self.embed.weight
                self.embed = more

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(self.embed(ids))))


HEAD = {"lora": zoo.LoRA(rank=2, targets=["0"], modules_to_save=["head"]), "full": zoo.Full(targets=["head"])}
IDS = torch.arange(20).view(2, 10)


def saved(folder: Path, module: nn.Module, lora: Any, bits: int | None = None) -> tuple[Path, Tensor]:
    model = zoo.wrap(module, bits=bits, lora=lora)
    with torch.no_grad():
        for _, parameter in model.trainable_parameters():
            parameter.normal_()
        return model.save_adapter(folder), model(IDS)


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("kind", HEAD)
def test_a_head_that_is_drawn_at_random_in_each_process(kind: str, bits: int | None, tmp_path: Path) -> None:
    folder, expected = saved(tmp_path, Net(1), HEAD[kind], bits)
    with torch.no_grad():
        assert torch.equal(zoo.wrap(Net(2), bits=bits, lora=folder)(IDS), expected)
    content = json.loads((folder / "zoo.json").read_text())
    assert content["replaced"] == {"head.bias": None, "head.weight": None}
    other = Net(1)
    with torch.no_grad():
        other.body[0].weight.mul_(1.001)
    with pytest.raises(AdapterError, match=r"made for the base 'Net'.*first in body\.0\.weight; load that base"):
        zoo.wrap(other, bits=bits, lora=folder)


def test_biases_that_train(tmp_path: Path) -> None:
    folder, expected = saved(tmp_path, Net(), zoo.LoRA(rank=2, targets=["0"], bias="all"))
    other = Net()
    with torch.no_grad():
        other.head.bias.add_(1)
        assert torch.equal(zoo.wrap(other, lora=folder)(IDS), expected)


def test_new_rows_that_are_drawn_at_random_in_each_process(tmp_path: Path) -> None:
    lora = zoo.LoRA(rank=2, targets=["0"], trainable_token_indices={"embed": [20, 22, 21]}, modules_to_save=["head"])
    folder, expected = saved(tmp_path, Net(1, rows=23), lora)
    with torch.no_grad():
        assert torch.equal(zoo.wrap(Net(2, rows=23), lora=folder)(IDS), expected)
    for rows in (20, 24):
        with pytest.raises(AdapterError, match=rf"first in embed\.weight of shape {rows}x8, not 23x8; load that base"):
            zoo.wrap(Net(1, rows=rows), lora=folder)
    other = Net(1, rows=23)
    with torch.no_grad():
        other.embed.weight[:20] *= 1.01
    with pytest.raises(AdapterError, match=r"first in embed\.weight"):
        zoo.wrap(other, lora=folder)


@pytest.mark.parametrize("there", [torch.float32, torch.bfloat16, torch.float16])
def test_the_same_base_in_another_float_type(there: torch.dtype, tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, Net().to(there), zoo.LoRA(rank=2, targets=["0"]))
    for here in (torch.float32, torch.bfloat16, torch.float16):
        zoo.wrap(Net().to(here), lora=folder)
        other = Net().to(here)
        with torch.no_grad():
            other.body[0].weight.mul_(1.03)
        with pytest.raises(AdapterError, match=r"first in body\.0\.weight"):
            zoo.wrap(other, lora=folder)


@pytest.mark.parametrize("trains", [True, False])
def test_statistics_of_the_base_count_unless_the_adapter_has_its_own(trains: bool, tmp_path: Path) -> None:
    def net(mean: float) -> nn.Sequential:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = nn.Sequential(nn.Embedding(20, 8), nn.Flatten(0, 1), nn.Linear(8, 8), nn.BatchNorm1d(8))
        module[3].running_mean.fill_(mean)
        return module.eval()

    model = zoo.wrap(net(1.0), lora=zoo.LoRA(rank=2, targets=["2"]))
    if trains:
        model.train()
        model(IDS)
        model.eval()
    folder, expected = model.save_adapter(tmp_path), model(IDS)
    assert torch.equal(zoo.wrap(net(1.0).double().float(), lora=folder)(IDS), expected)
    zoo.wrap(net(1.0).bfloat16(), lora=folder)
    if trains:
        assert torch.equal(zoo.wrap(net(2.0), lora=folder)(IDS), expected)
    else:
        with pytest.raises(AdapterError, match=r"made for the base 'Sequential'.*first in 3\.running_mean"):
            zoo.wrap(net(2.0), lora=folder)


def test_a_file_cannot_leave_out_what_it_does_not_replace(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, Net(1), zoo.LoRA(rank=2, targets=["0"]))
    content = json.loads((folder / "zoo.json").read_text())
    for name in ("head.weight", "head.bias"):
        del content["weights"][name]
        content["replaced"][name] = None
    (folder / "zoo.json").write_text(json.dumps(content))
    with pytest.raises(AdapterError, match=r"leaves head\.(weight|bias) out of the base"):
        zoo.wrap(Net(2), lora=folder)


@pytest.mark.parametrize("change", [{"weights": []}, {"weights": {"a": 1}}, {"replaced": {"a": [-1]}}, {"replaced": 3}])
def test_a_damaged_list_of_weights(change: dict[str, Any], tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, Net(), zoo.LoRA(rank=2, targets=["0"]))
    content = json.loads((folder / "zoo.json").read_text())
    (folder / "zoo.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(AdapterError, match=r"zoo\.json: expected texts in weights"):
        zoo.wrap(Net(), lora=folder)


def test_what_a_file_names_stays_in_one_line(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, Net(), zoo.LoRA(rank=2, targets=["0"]))
    content = json.loads((folder / "zoo.json").read_text())
    content["base"]["fingerprint"] = "0" * 32
    content["weights"]["a\nb" + "c" * 1000] = ""
    (folder / "zoo.json").write_text(json.dumps(content))
    with pytest.raises(AdapterError, match="made for the base") as caught:
        zoo.wrap(Net(), lora=folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_file_of_an_older_format_has_one_fingerprint(tmp_path: Path) -> None:
    folder, expected = saved(tmp_path, Net(), zoo.LoRA(rank=2, targets=["0"]))
    content = json.loads((folder / "zoo.json").read_text())
    older = {key: value for key, value in content.items() if key not in ("weights", "replaced")} | {"format": 2}
    (folder / "zoo.json").write_text(json.dumps(older))
    with torch.no_grad():
        assert torch.equal(zoo.wrap(Net(), lora=folder)(IDS), expected)
    with pytest.raises(AdapterError, match="made for the base"):
        zoo.wrap(Net(1), lora=folder)


def test_an_adapter_that_came_after_the_base_was_trained_is_of_the_trained_base(tmp_path: Path) -> None:
    model = zoo.wrap(Net())
    with torch.no_grad():
        model.module.head.weight.add_(1)
    trained = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.add_adapter("a", zoo.LoRA(rank=2, targets=["0"]))
    folder = model.save_adapter(tmp_path)
    with pytest.raises(AdapterError, match=r"first in head\.weight"):
        zoo.wrap(Net(), lora=folder)
    module = Net()
    module.load_state_dict(trained)
    assert zoo.wrap(module, lora=folder).active == ("default",)
