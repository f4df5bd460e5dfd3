"""Files with adapters of several parts of a pipeline: each model reads its own, the rest is named."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import zoo
from zoo.errors import AdapterError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.out = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.to_q(x).tanh())


A, B = torch.randn(2, 6), torch.randn(6, 2)


def pair(stem: str, down: Tensor = A, up: Tensor = B) -> dict[str, Tensor]:
    return {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}


def read(tensors: dict[str, Tensor], folder: Path, module: nn.Module) -> zoo.Model:
    save_file({name: one.clone().contiguous() for name, one in tensors.items()}, folder / "a.safetensors")
    return zoo.wrap(module.eval(), lora=folder / "a.safetensors")


class Encoder(nn.Module):
    def __init__(self, size: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleDict({"fc1": nn.Linear(size, size)}) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer["fc1"](x).tanh()
        return x


def encoder(stem: str, size: int = 4, layers: int = 2) -> dict[str, Tensor]:
    made = {}
    for number in range(layers):
        made |= pair(stem.format(number), torch.ones(1, size), torch.full((size, 1), 0.1))
    return made


OTHERS: dict[str, dict[str, Tensor]] = {
    "kohya": encoder("lora_te_layers_{}_fc1"),
    "two of kohya's": encoder("lora_te1_layers_{}_fc1") | encoder("lora_te2_layers_{}_fc1", 5, 3),
    "diffusers": encoder("text_encoder.layers.{}.fc1") | encoder("text_encoder_2.layers.{}.fc1", 5),
    "ComfyUI": encoder("text_encoders.clip_l.layers.{}.fc1"),
    "an autoencoder": encoder("vae.layers.{}.fc1"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_is_for_another_part_of_a_pipeline_is_named(
    other: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine = pair("unet.to_q") if other == "diffusers" else pair("lora_unet_to_q")
    base, x = Net(), torch.randn(3, 6)
    with torch.no_grad():
        expected = base.out((base.to_q(x) + x @ A.T @ B.T).tanh())
    with caplog.at_level(logging.WARNING, "zoo"):
        model = read(mine | OTHERS[other], tmp_path, base)
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
    (record,) = caplog.records
    assert f"{len(OTHERS[other])} of its tensors are for another part of a pipeline than Net" in record.message
    assert repr(next(iter(OTHERS[other]))) in record.message


@pytest.mark.parametrize("other", OTHERS)
def test_the_other_part_reads_its_own(other: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mine = pair("lora_unet_to_q")
    x = torch.randn(3, 4)
    with caplog.at_level(logging.WARNING, "zoo"):
        model = read(mine | OTHERS[other], tmp_path, Encoder())
    expected = Encoder()
    expected.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(x), expected(x), rtol=1e-5, atol=1e-5)
    assert model.footprint().adapted_share > 0.5
    assert len(model.records) == 1
    assert "'lora_unet_to_q.lora_down.weight'" in caplog.text


def test_two_parts_that_fit_alike_are_refused(tmp_path: Path) -> None:
    tensors = encoder("lora_te1_layers_{}_fc1") | encoder("lora_te2_layers_{}_fc1")
    with pytest.raises(AdapterError, match="components, lora_te1 and lora_te2, that fit alike"):
        read(tensors, tmp_path, Encoder())


def test_a_module_with_both_parts_reads_both(tmp_path: Path) -> None:
    module = nn.ModuleDict({"unet": Net(), "text_encoder": Encoder()})
    tensors = pair("unet.to_q") | encoder("text_encoder.layers.{}.fc1")
    assert read(tensors, tmp_path, module).footprint().adapted_share > 0.15


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.update(pair("lora_unet_nowhere")),
        lambda t: t.update(pair("nowhere")),
        lambda t: t.update(pair("my_model.nowhere")),
        lambda t: t.update({"lora_te_x.alpha": torch.tensor(1.0)}),
        lambda t: t.update({"text_encoder.x.lora_A.weight": A}),
    ],
)
def test_a_key_of_no_part_stays_an_error(change: Callable[[dict[str, Tensor]], None], tmp_path: Path) -> None:
    tensors = pair("lora_unet_to_q") | OTHERS["kohya"]
    change(tensors)
    with pytest.raises(AdapterError, match=r"nowhere.*matches no layer|_x.*matches no layer|\.x\..*matches no layer"):
        read(tensors, tmp_path, Net())
