"""Create the files beside it with LyCORIS itself: adapters of a small model, its weights, an input and the outputs.

    python tests/formats/data/make_lycoris.py        # needs `pip install lycoris-lora`; made with 4.1.3

Each `lycoris_<name>.safetensors` was written by LyCORIS's `save_weights`; `lycoris_expected.safetensors` has the
model's weights (`base.…`), the input `x`, and the output of LyCORIS's layers for each adapter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

HERE = Path(__file__).parent
ADAPTERS: dict[str, dict[str, Any]] = {
    "locon": {"algo": "locon"},
    "locon_ranks": {"algo": "locon", "conv_dim": 2, "conv_alpha": 3},
    "locon_tucker": {"algo": "locon", "use_tucker": True},
    "locon_dora": {"algo": "locon", "dora_wd": True},
    "locon_scalar": {"algo": "locon", "use_scalar": True},
    "loha": {"algo": "loha"},
    "loha_tucker": {"algo": "loha", "use_tucker": True},
    "lokr": {"algo": "lokr", "linear_dim": 2, "conv_dim": 2},
    "lokr_factor": {"algo": "lokr", "linear_dim": 1, "conv_dim": 1, "factor": 2, "decompose_both": True},
    "lokr_tucker": {"algo": "lokr", "linear_dim": 1, "conv_dim": 1, "use_tucker": True},
    "lokr_full": {"algo": "lokr", "full_matrix": True},
    "lokr_full_conv1d": {"algo": "lokr", "full_matrix": True},
}
WITHOUT_CONV1D = ("lokr", "lokr_full")


class Small(nn.Module):
    """A layer name with an underscore, two kinds of convolution (one of them grouped) and linear layers."""

    def __init__(self, conv1d: bool = True) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(1, 8, 3, padding=1)
        self.block = nn.ModuleDict({"conv": nn.Conv2d(8, 8, 3, padding=1, groups=2), "to_q": nn.Linear(8, 12)})
        self.conv1d = nn.Conv1d(12, 8, 3, padding=1) if conv1d else None
        self.out = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block["conv"](self.conv_in(x)).tanh()
        x = self.block["to_q"](x.mean(3).transpose(1, 2))
        x = self.conv1d(x.transpose(1, 2)).transpose(1, 2) if self.conv1d is not None else x[..., :8]
        return self.out(x)


def main() -> None:
    from lycoris import create_lycoris

    torch.manual_seed(0)
    whole = Small().eval()
    flat = Small(conv1d=False).eval()
    flat.load_state_dict(whole.state_dict(), strict=False)
    x = torch.randn(2, 1, 5, 4)
    expected = {f"base.{name}": tensor.clone() for name, tensor in whole.state_dict().items()} | {"x": x}
    for name, options in ADAPTERS.items():
        model = flat if name in WITHOUT_CONV1D else whole
        options = {"linear_dim": 4, "linear_alpha": 2, **options}
        network = create_lycoris(model, 1.0, **options)
        network.apply_to()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
            expected[name] = model(x)
        file = HERE / f"lycoris_{name}.safetensors"
        network.save_weights(str(file), torch.float32, {})
        network.restore()
        print(name, file.stat().st_size, sorted({key.partition(".")[2] for key in load_file(file)}))
    save_file(expected, HERE / "lycoris_expected.safetensors")


if __name__ == "__main__":
    main()
