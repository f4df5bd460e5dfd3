"""Adapters from before a library renamed or joined its modules: what its checkpoints of that time would compute."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import zoo
from zoo.errors import AdapterError

TEXT = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
VISION = {**{key: TEXT[key] for key in TEXT if key != "vocab_size"}, "image_size": 8, "patch_size": 4}
IDS, IMAGE = torch.arange(3, 10)[None], torch.randn(1, 3, 8, 8)


def mixtral() -> nn.Module:
    from transformers import MixtralConfig, MixtralForCausalLM

    return MixtralForCausalLM(MixtralConfig(**TEXT, **TOKENS, num_key_value_heads=1, num_local_experts=3))


def qwen() -> nn.Module:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    more = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 20, "head_dim": 8}
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**TEXT, **TOKENS, num_key_value_heads=1, **more))


def llava() -> nn.Module:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    parts = {"text_config": LlamaConfig(**TEXT, **TOKENS), "vision_config": CLIPVisionConfig(**VISION)}
    return LlavaForConditionalGeneration(LlavaConfig(**parts, image_token_index=39, vision_feature_layer=-1))


def dinov2() -> nn.Module:
    from transformers import Dinov2Config, Dinov2Model

    return Dinov2Model(Dinov2Config(**VISION, use_swiglu_ffn=True))


def neox() -> nn.Module:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    return GPTNeoXForCausalLM(GPTNeoXConfig(**TEXT, **TOKENS))


@torch.no_grad()
def run(model: Any) -> Tensor:
    module = model.module if isinstance(model, zoo.Model) else model
    if module.main_input_name == "input_ids":
        return module(input_ids=IDS).logits
    return module(pixel_values=IMAGE).last_hidden_state


class Old:
    """A model, its checkpoint under old names, and an adapter of weights of the checkpoint."""

    def __init__(self, make: Callable[[], nn.Module], folder: Path) -> None:
        torch.manual_seed(0)
        self.module, self.folder = self._eager(make().eval()), folder
        for parameter in self.module.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(std=0.2)
        self.module.save_pretrained(folder / "base")  # type: ignore[operator]
        self.tensors = load_file(folder / "base" / "model.safetensors")

    @staticmethod
    def _eager(module: nn.Module) -> nn.Module:
        if hasattr(module, "set_experts_implementation") and "Moe" in str(module):
            module.set_experts_implementation("eager")
        return module

    def names(self, pattern: str) -> list[str]:
        return [name for name, one in self.tensors.items() if re.search(pattern, name) and one.dim() == 2]

    def adapter(self, names: list[str], **fields: Any) -> Path:
        """Write an adapter of some of the checkpoint's matrices, of two ranks, as PEFT wrote it then."""
        made, ranks = {}, {}
        for number, name in enumerate(names):
            rank, (rows, columns) = 2 + number % 2, self.tensors[name].shape
            A, B = torch.randn(rank, columns), torch.randn(rows, rank)
            path = name.removesuffix(".weight")
            made |= {f"base_model.model.{path}.lora_A.weight": A, f"base_model.model.{path}.lora_B.weight": B}
            ranks[f"^{re.escape(path)}"] = rank
            self.tensors[name] = self.tensors[name] + 0.4 / rank * (B @ A)
        folder = self.folder / "adapter"
        folder.mkdir()
        save_file(made, folder / "adapter_model.safetensors", {"format": "pt"})
        targets = sorted({name.removesuffix(".weight").split(".")[-1] for name in names})
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 0.4, "target_modules": targets, "rank_pattern": ranks}
        (folder / "adapter_config.json").write_text(json.dumps({**config, **fields}))
        return folder

    def expected(self) -> Tensor:
        save_file(self.tensors, self.folder / "base" / "model.safetensors", {"format": "pt"})
        return run(self._eager(type(self.module).from_pretrained(self.folder / "base").eval()))  # type: ignore[attr-defined]


CASES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "experts of Mixtral": (mixtral, r"block_sparse_moe\.(experts|gate).*weight|q_proj"),
    "only w1, w2": (mixtral, r"experts\.\d\.w[12]"),
    "only one expert": (mixtral, r"experts\.1\.w"),
    "experts of Qwen": (qwen, r"mlp\.(experts|gate)\b.*weight"),
    "a language model that moved": (llava, r"^language_model.*(q_proj|up_proj|lm_head)|^vision_tower.*fc1"),
    "one that was split, and renamed ones": (dinov2, r"query\.weight|dense\.weight|weights_(in|out)\.weight"),
    "a head": (neox, r"embed_out|query_key_value\.weight"),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_checkpoint_of_its_time(case: str, tmp_path: Path) -> None:
    make, pattern = CASES[case]
    old = Old(make, tmp_path)
    before = run(old.module)
    folder = old.adapter(old.names(pattern), target_modules="all-linear")
    expected = old.expected()
    model = zoo.wrap(old.module, lora=folder)
    assert (run(model) - expected).norm() < 1e-5 * expected.norm()
    assert (before - expected).norm() > 1e-3 * expected.norm()
    model.save_adapter(tmp_path / "again")
    again = zoo.wrap(model.unload(), lora=tmp_path / "again")
    assert (run(again) - expected).norm() < 1e-5 * expected.norm()


def test_in_a_module_around_the_librarys_and_over_four_bit(tmp_path: Path) -> None:
    old = Old(mixtral, tmp_path)
    folder = old.adapter(old.names(r"experts\.[02]\.w[12]"), rank_pattern={r".*\.w2": 3}, target_modules="all-linear")
    file = folder / "adapter_model.safetensors"
    inside = {key.replace("base_model.model.", "base_model.model.body."): one for key, one in load_file(file).items()}
    save_file(inside, file)
    bodies = [nn.ModuleDict({"body": copy.deepcopy(old.module)}) for _ in range(2)]
    plain, packed = (zoo.wrap(body, bits=bits, lora=folder) for body, bits in zip(bodies, (None, 4), strict=True))
    updates = [dict(model.trainable_parameters()) for model in (plain, packed)]
    assert updates[0].keys() == updates[1].keys()
    assert all(torch.equal(updates[0][name], updates[1][name]) for name in updates[0])


def test_without_pefts_prefix_as_transformers_writes_it(tmp_path: Path) -> None:
    old = Old(mixtral, tmp_path)
    folder = old.adapter(old.names(r"experts\.\d\.w|q_proj"))
    file = folder / "adapter_model.safetensors"
    save_file({key.removeprefix("base_model.model."): one for key, one in load_file(file).items()}, file)
    expected = old.expected()
    assert (run(zoo.wrap(old.module, lora=folder)) - expected).norm() < 1e-5 * expected.norm()


def test_parameters_whose_module_moved(tmp_path: Path) -> None:
    module = Old(mixtral, tmp_path).module
    fields = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    fields |= {"target_parameters": ["experts.gate_up_proj", "experts.down_proj"], "rank_pattern": {"q_proj": 3}}
    fields["rank_pattern"] |= {r".*experts\.down_proj": 1}  # type: ignore[operator]
    layer = "base_model.model.{}.layers.0."
    shapes = {"self_attn.q_proj": ((3, 16), (16, 3)), "mlp.experts.base_layer": ((6, 16), (48, 6))}
    shapes["mlp.experts"] = ((3, 24), (16, 3))
    values = {key: [torch.randn(shape) for shape in pair] for key, pair in shapes.items()}
    outputs = []
    for name in ("model", "body"):
        folder = tmp_path / name
        folder.mkdir()
        tensors = {
            f"{layer.format(name)}{key}.lora_{way}.weight": one
            for key, pair in values.items()
            for way, one in zip("AB", pair, strict=True)
        }
        save_file(tensors, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps(fields))
        one = copy.deepcopy(module)
        one._checkpoint_conversion_mapping = {r"^body\.": "model."}  # type: ignore[assignment]
        outputs.append(run(zoo.wrap(one, lora=folder)))
    assert torch.equal(*outputs)
    assert not torch.allclose(outputs[0], run(module))


def test_ranks_are_added_only_where_factors_differ(tmp_path: Path) -> None:
    old = Old(mixtral, tmp_path)
    names = [name for name in old.names(r"experts\.\d\.w") if "w2" not in name]
    folder = old.adapter(names, rank_pattern={}, r=2)
    tensors = load_file(folder / "adapter_model.safetensors")
    for number in range(3):
        first = f"base_model.model.model.layers.0.block_sparse_moe.experts.{number}.w"
        for way in "AB":
            tensors[f"{first}1.lora_{way}.weight"] = torch.randn(2, 16) if way == "A" else torch.randn(24, 2)
            tensors[f"{first}3.lora_{way}.weight"] = tensors[f"{first}1.lora_{way}.weight"].clone()
    save_file(tensors, folder / "adapter_model.safetensors")
    model = zoo.wrap(old.module, lora=folder)
    assert set(model.adapters["default"].rank_pattern.values()) <= {2}  # type: ignore[attr-defined]


def test_alphas_of_their_own_and_rslora(tmp_path: Path) -> None:
    old = Old(mixtral, tmp_path)
    names = old.names(r"experts\.\d\.w[13]")
    folder = old.adapter(names, use_rslora=True, rank_pattern={}, r=2, alpha_pattern={"w3": 0.9})
    tensors = load_file(folder / "adapter_model.safetensors")
    base = load_file(tmp_path / "base" / "model.safetensors")
    made = {}
    for name in names:
        path = "base_model.model." + name.removesuffix(".weight")
        A, B = torch.randn(2, 16), torch.randn(24, 2)
        made |= {f"{path}.lora_A.weight": A, f"{path}.lora_B.weight": B}
        old.tensors[name] = base[name] + (0.9 if "w3" in name else 0.4) / 2**0.5 * B @ A
    assert made.keys() == tensors.keys()
    save_file(made, folder / "adapter_model.safetensors")
    expected = old.expected()
    assert (run(zoo.wrap(old.module, lora=folder)) - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize(
    ("make", "layer", "before"),
    [(neox, "query_key_value.weight", "embed_out"), (llava, "q_proj.weight", "language_model.lm_head")],
)
def test_modules_to_save_by_their_old_name(
    make: Callable[[], nn.Module], layer: str, before: str, tmp_path: Path
) -> None:
    old = Old(make, tmp_path)
    if hasattr(old.module, before):
        pytest.skip(f"transformers {transformers.__version__} has not renamed {before} yet")
    folder = old.adapter(old.names(layer), modules_to_save=[before])
    tensors = load_file(folder / "adapter_model.safetensors")
    old.tensors[f"{before}.weight"] = torch.randn(40, 16)
    tensors[f"base_model.model.{before}.weight"] = old.tensors[f"{before}.weight"]
    save_file(tensors, folder / "adapter_model.safetensors")
    model = zoo.wrap(old.module, lora=folder)
    assert model.adapters["default"].modules_to_save == ("lm_head",)
    torch.testing.assert_close(run(model), old.expected(), rtol=1e-5, atol=1e-5)


def drop(key: str) -> Callable[[dict[str, Tensor]], Any]:
    return lambda tensors: [tensors.pop(name) for name in list(tensors) if key in name]


@pytest.mark.parametrize(
    ("make", "pattern", "change", "match"),
    [
        (llava, "q_proj|up_proj", drop("up_proj"), "targets model.language_model.layers.0.mlp.up_proj, for which"),
        (mixtral, "experts", drop("0.w1.lora_B"), r"experts\.0\.w1: its lora_B.weight is missing"),
        (mixtral, "experts", lambda t: t.update({next(iter(t)): torch.randn(5, 16)}), "expected matrices of rank"),
        (mixtral, "experts", drop("1.w3"), r"targets model\.layers\.0\.block_sparse_moe\.experts\.1\.w3, for which"),
        (
            mixtral,
            "experts",
            lambda t: t.update({key.replace("experts.0", "experts.7"): one.clone() for key, one in t.items()}),
            "does not go with",
        ),
        (qwen, "experts", lambda t: t.update({"base_model.model.nowhere.lora_A.weight": torch.ones(2, 2)}), "nowhere"),
    ],
)
def test_what_does_not_fit_is_named(
    make: Callable[[], nn.Module], pattern: str, change: Callable[..., Any], match: str, tmp_path: Path
) -> None:
    old = Old(make, tmp_path)
    folder = old.adapter(old.names(pattern))
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match=match):
        zoo.wrap(old.module, lora=folder)


def test_another_kind_of_adapter_of_joined_weights_is_refused(tmp_path: Path) -> None:
    old = Old(mixtral, tmp_path)
    folder = old.adapter(old.names("w2"))
    stem = "base_model.model.model.layers.0.block_sparse_moe.experts.0.w2.hada_"
    made = {f"{stem}w{n}_{way}": torch.randn(2, 2) for n in (1, 2) for way in "ab"}
    save_file(made, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LOHA", "r": 2, "alpha": 2, "target_modules": ["w2"]})
    )
    with pytest.raises(AdapterError, match="only factors of a LoRA can be put together"):
        zoo.wrap(old.module, lora=folder)
