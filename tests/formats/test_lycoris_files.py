"""Files of LyCORIS and kohya: zoo's outputs equal those of LyCORIS, and what does not fit is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import zoo
from zoo.errors import AdapterError

from .helpers import DATA, EXPECTED, MAKER, close, run, small

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")

READ = [name for name in MAKER.ADAPTERS if name != "lokr_full_conv1d"]


@pytest.mark.parametrize("name", READ)
def test_what_lycoris_wrote_computes_what_lycoris_computed(name: str) -> None:
    module = small(name)
    plain = run(module, EXPECTED["x"])
    model = zoo.wrap(module, lora=DATA / f"lycoris_{name}.safetensors")
    assert close(run(model, EXPECTED["x"]), EXPECTED[name])
    assert not close(EXPECTED[name], plain, 1e-2)


@pytest.mark.parametrize("name", ["locon_dora", "loha_tucker", "lokr_factor"])
def test_what_lycoris_wrote_can_be_saved_again(name: str, tmp_path: Path) -> None:
    model = zoo.wrap(small(), lora=DATA / f"lycoris_{name}.safetensors")
    model.save_adapter(tmp_path / "a")
    again = zoo.wrap(small(), lora=tmp_path / "a")
    assert torch.equal(run(again, EXPECTED["x"]), run(model, EXPECTED["x"]))


def test_the_one_file_of_a_folder_and_over_four_bit(tmp_path: Path) -> None:
    (tmp_path / "mine.safetensors").write_bytes((DATA / "lycoris_locon.safetensors").read_bytes())
    one, other = small(), small()
    dense = zoo.wrap(one, bits=4).state_dict()
    model = zoo.wrap(other, bits=4, lora={"mine": tmp_path})
    again = small()
    again.load_state_dict(dense)
    assert close(run(model, EXPECTED["x"]), run(zoo.wrap(again, lora=tmp_path), EXPECTED["x"]))


def test_a_whole_kronecker_factor_on_a_one_dimensional_convolution_is_refused() -> None:
    with pytest.raises(AdapterError, match=r"conv1d: LoKr with a whole lokr_w2 on a one-dimensional"):
        zoo.wrap(small(), lora=DATA / "lycoris_lokr_full_conv1d.safetensors")


def kohya(tmp_path: Path, change: Callable[[dict[str, Tensor]], Any] | None = None, prefix: str = "lora_unet_") -> Path:
    tensors = load_file(DATA / "lycoris_locon.safetensors")
    tensors = {prefix + key.removeprefix("lycoris_"): tensor for key, tensor in tensors.items()}
    if change is not None:
        change(tensors)
    save_file(tensors, tmp_path / "kohya.safetensors")
    return tmp_path / "kohya.safetensors"


def test_kohyas_prefix(tmp_path: Path) -> None:
    assert close(run(zoo.wrap(small(), lora=kohya(tmp_path)), EXPECTED["x"]), EXPECTED["locon"])


def test_without_alpha_the_scale_is_one(tmp_path: Path) -> None:
    path = kohya(tmp_path, lambda t: [t.pop(key) for key in list(t) if key.endswith(".alpha")])
    model = zoo.wrap(small(), lora=path)
    assert {model.adapters["default"].scale_of(p) for p in ("conv_in", "out", "block.to_q")} == {1.0}  # type: ignore[attr-defined]


TWO = r"ambiguous, it may mean block_conv or block\.conv"


class Ambiguous(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block_conv = nn.Linear(3, 3)
        self.block = nn.ModuleDict({"conv": nn.Linear(3, 3)})


def test_a_path_with_underscores_that_two_layers_have_is_refused(tmp_path: Path) -> None:
    save_file(
        {f"lycoris_block_conv.lora_{way}.weight": torch.randn(3, 3) for way in ("up", "down")},
        tmp_path / "a.safetensors",
    )
    with pytest.raises(AdapterError, match=TWO):
        zoo.wrap(Ambiguous(), lora=tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.update({"lora_te_x.lora_up.weight": torch.zeros(2, 2)}), "matches no layer"),
        (lambda t: t.update({"lora_unet_out.alpha": torch.zeros(2)}), "expected one number as its alpha"),
        (lambda t: t.update({"lora_unet_out.lora_down.weight": torch.zeros(4)}), "expected a matrix"),
        (lambda t: t.update({"lora_unet_out.lora_down.weight": torch.zeros(4, 9)}), r"out\.weight.*shapes.*expected"),
        (lambda t: t.update({"lora_unet_out.lora_mid.weight": torch.zeros(4, 3)}), "lora_mid has shape"),
        (lambda t: t.update({"lora_unet_out.dora_scale": torch.ones(6, 1)}), "other layers have none"),
        (lambda t: t.update({"lora_unet_out.w_norm": torch.ones(6)}), "unexpected 'w_norm'"),
        (lambda t: t.update({"lora_unet_out.hada_w1_a": torch.ones(6, 1)}), "expected the factors of a LoCon"),
        (lambda t: t.pop("lora_unet_out.lora_down.weight"), "its lora_down.weight is missing"),
        (lambda t: t.update({"lycoris_out.alpha": torch.tensor(1.0)}), "written twice"),
        (lambda t: t.update({"text": torch.tensor(1.0)}), "unexpected key 'text'"),
        (lambda t: t.update({"lora_unet_out.lora_up.weight": torch.full((6, 4), torch.nan)}), "finite"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(change: Callable[..., Any], match: str, tmp_path: Path) -> None:
    model = zoo.wrap(small())
    with pytest.raises(AdapterError, match=match) as caught:
        model.add_adapter("a", kohya(tmp_path, change))
    assert "\n" not in str(caught.value)
    assert not model.adapters
