"""What libraries do to a module, with all its weights managed: transformers, diffusers and timm.

Each in full precision, 8 and 4 bit, with an adapter of random factors on every weight; the reference is the library's
own module with the equivalent dense weights.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.errors import WeightError
from zoo.weights.walk import managed_weights

BITS = [None, 8, 4]


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": 61, "n_positions": 24, "n_embd": 32, "n_layer": 2, "n_head": 2}
    tokens = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(**sizes, **tokens, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))


def llama(tied: bool = False) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": tied}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, bos_token_id=1, eos_token_id=None, pad_token_id=0))


def unet() -> nn.Module:
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )


def vit() -> nn.Module:
    import timm

    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
    return timm.create_model("vit_tiny_patch16_224", **sizes)


MODELS: dict[str, Callable[[], nn.Module]] = {"gpt2": gpt2, "llama": llama, "unet": unet, "vit": vit}


def inputs_of(name: str) -> tuple[Tensor, ...]:
    if name in ("gpt2", "llama"):
        return (torch.randint(3, 61, (3, 9)),)
    if name == "unet":
        return (torch.randn(2, 3, 8, 8), torch.tensor([3, 700]))
    return (torch.randn(2, 3, 16, 16),)


def run(module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    out = module(*inputs)
    return out if isinstance(out, Tensor) else out[0]


def managed(name: str, bits: int | None) -> tuple[zoo.Model, nn.Module]:
    """Return a wrapped model, and the library's own with the same weights."""
    plain = MODELS[name]().eval()
    with torch.no_grad():
        for parameter in plain.parameters():  # away from the libraries' small initial values, so that differences show
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model = zoo.wrap(copy.deepcopy(plain), bits=bits, lora=zoo.LoRA(rank=2, alpha=4, targets="all"))
    spread_factors(model)
    plain.load_state_dict(model.state_dict())
    return model, plain


def spread_factors(model: zoo.Model) -> None:
    with torch.no_grad():
        for _, factor in model.trainable_parameters():
            factor.normal_(std=0.1)


def gradients(model: zoo.Model, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    model.module.zero_grad()
    out = run(model.module, inputs)
    (out.float() * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.trainable_parameters()}


def error(got: Tensor, expected: Tensor) -> float:
    got, expected = got.detach().double(), expected.detach().double()
    return float((got - expected).norm() / expected.norm().clamp(min=1e-12))


def assert_close(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    assert got.keys() == expected.keys()
    for key in got:
        assert error(got[key], expected[key]) < tolerance, key


both = pytest.mark.parametrize(("name", "bits"), [(name, bits) for name in MODELS for bits in BITS])
quantized = pytest.mark.parametrize("bits", BITS)


@both
def test_outputs_and_state_are_the_librarys_own(name: str, bits: int | None) -> None:
    model, plain = managed(name, bits)
    inputs = inputs_of(name)
    assert error(run(model.module, inputs), run(plain, inputs)) < 1e-5
    assert set(model.state_dict()) == set(plain.state_dict())
    with torch.no_grad():
        recorded = run(model.module, inputs)
    with torch.inference_mode():
        assert error(run(model.module, inputs), recorded) < 1e-6
    assert gradients(model, inputs)  # no tensor from inference mode is left


@quantized
@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("beams", [1, 3])
def test_generate(name: str, bits: int | None, beams: int) -> None:
    model, plain = managed(name, bits)
    prompt = torch.randint(3, 61, (2, 5))
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "num_beams": beams}
    options["attention_mask"] = torch.ones_like(prompt)
    got = model.module.generate(prompt, **options)
    assert got.shape == (2, 13)
    assert torch.equal(got, plain.generate(prompt, **options))


@both
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(name: str, bits: int | None, reentrant: bool) -> None:
    if reentrant and name not in ("gpt2", "llama"):
        pytest.skip("only transformers offers the choice")
    model, _ = managed(name, bits)
    model.train()
    inputs = inputs_of(name)
    expected = gradients(model, inputs)
    if name == "vit":
        model.module.set_grad_checkpointing()
    elif name == "unet":
        model.module.enable_gradient_checkpointing()
    else:
        name = "activation_checkpointing_enable"  # as transformers calls it from 5.23 on
        enable = getattr(model.module, name, None) or model.module.gradient_checkpointing_enable
        enable({"use_reentrant": reentrant})
    assert_close(gradients(model, inputs), expected)


@both
def test_autocast(name: str, bits: int | None) -> None:
    model, plain = managed(name, bits)
    inputs = inputs_of(name)
    exact = run(plain, inputs)
    expected = gradients(model, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        own = run(plain, inputs)
        got = run(model.module, inputs)
        assert got.dtype == own.dtype
        low = gradients(model, inputs)
    # A few numbers of two independent roundings: bfloat16's own step beside twice the library's error.
    assert error(got, exact) < 2 * error(own, exact) + 8e-3
    assert torch.cat([low[key].flatten() for key in low]).isfinite().all()
    joined = torch.cat([low[key].flatten() for key in low]), torch.cat([expected[key].flatten() for key in low])
    assert error(*joined) < 0.05


@both
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_casting_the_module(name: str, bits: int | None, dtype: torch.dtype) -> None:
    model, plain = managed(name, bits)
    inputs = inputs_of(name)
    exact = run(plain, inputs)
    scales = [
        tensor.clone()
        for store in managed_weights(model.module).values()
        if store.packed is not None
        for tensor in store.packed.tensors()
    ]
    model.module.to(dtype)
    plain.to(dtype)
    cast = tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs)
    assert all(info.dtype == dtype for info in model.weights())
    got, own = run(model.module, cast), run(plain, cast)
    assert got.dtype == own.dtype == dtype
    if dtype == torch.float64:  # the float32 result is itself off by about 1e-6
        assert error(got, own) < 1e-6
    else:
        assert error(got, exact) < 2 * error(own, exact) + 2e-3
    after = [t for s in managed_weights(model.module).values() if s.packed is not None for t in s.packed.tensors()]
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(after, scales, strict=True))
    grads = gradients(model, cast)
    assert all(grad.isfinite().all() and grad.dtype == dtype for grad in grads.values())
    model.module.float()
    if dtype == torch.float64:
        assert error(run(model.module, inputs), exact) < 1e-5


@both
def test_copies_are_equal_and_independent(name: str, bits: int | None, tmp_path: Path) -> None:
    model, _ = managed(name, bits)
    inputs = inputs_of(name)
    before = run(model.module, inputs)
    torch.save(model.module, tmp_path / "module.pt")
    copies = {
        "deepcopy": copy.deepcopy(model.module),
        "pickle": pickle.loads(pickle.dumps(model.module)),
        "torch.save": torch.load(tmp_path / "module.pt", weights_only=False),
        "model": copy.deepcopy(model).module,
        "pickled model": pickle.loads(pickle.dumps(model)).module,
    }
    for how, other in copies.items():
        assert torch.equal(run(other, inputs), before), how
        assert len(managed_weights(other)) == len(managed_weights(model.module)), how
        trained = [parameter for parameter in other.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=1e-3)
        run(other, inputs).square().sum().backward()
        assert all(parameter.grad is not None for parameter in trained), how
        optimizer.step()
        assert not torch.equal(run(other, inputs), before), how
        assert torch.equal(run(model.module, inputs), before), how


@both
def test_raw_state_dict_round_trip(name: str, bits: int | None) -> None:
    model, _ = managed(name, bits)
    other, _ = managed(name, bits)
    inputs = inputs_of(name)
    assert error(run(other.module, inputs), run(model.module, inputs)) > 1e-2
    other.module.load_state_dict(copy.deepcopy(model.module.state_dict()))
    assert torch.equal(run(other.module, inputs), run(model.module, inputs))
    with pytest.raises(RuntimeError, match="Unexpected key"):  # the library's names do not fit, which is an error
        other.module.load_state_dict(model.state_dict())


@quantized
def test_save_pretrained_writes_the_librarys_names(bits: int | None, tmp_path: Path) -> None:
    for name in ("gpt2", "llama", "unet"):
        model, plain = managed(name, bits)
        inputs = inputs_of(name)
        before = run(model.module, inputs)
        model.module.save_pretrained(tmp_path / name)
        assert torch.equal(run(model.module, inputs), before)
        loaded = type(plain).from_pretrained(tmp_path / name).eval()
        assert error(run(loaded, inputs), before) < 1e-5
        assert len(managed_weights(copy.deepcopy(model.module))) == len(managed_weights(model.module))


@quantized
def test_transformers_own_questions(bits: int | None) -> None:
    model, plain = managed("gpt2", bits)
    module, inputs = model.module, inputs_of("gpt2")
    before = run(module, inputs)
    assert module.num_parameters() > 0
    assert module.get_memory_footprint() > 0
    assert (module.dtype, module.device) == (plain.dtype, plain.device)
    module.tie_weights()
    module.init_weights()
    module.post_init()
    assert module.get_input_embeddings().weight is module.get_output_embeddings().weight
    assert torch.equal(run(module, inputs), before)
    with pytest.raises(WeightError):
        module.resize_token_embeddings(70, mean_resizing=False)
    other, _ = managed("gpt2", bits)
    with pytest.raises(WeightError):
        other.module.apply(other.module._init_weights)
    other.unload()
    other.module.resize_token_embeddings(70, mean_resizing=False)
    assert run(other.module, inputs).shape[-1] == 70


@quantized
def test_tied_llama_stays_tied(bits: int | None) -> None:
    model = zoo.wrap(llama(tied=True).eval(), bits=bits, lora=zoo.LoRA(rank=2, targets="all"))
    spread_factors(model)
    model.module.tie_weights()
    held = managed_weights(model.module)
    assert model.module.lm_head.weight is model.module.model.embed_tokens.weight
    assert "lm_head.weight" not in held or "model.embed_tokens.weight" not in held


@quantized
def test_ddim_pipeline(bits: int | None) -> None:
    from diffusers import DDIMPipeline, DDIMScheduler

    model, plain = managed("unet", bits)
    images = []
    for module in (model.module, plain):
        pipeline = DDIMPipeline(module, DDIMScheduler(num_train_timesteps=20))
        pipeline.set_progress_bar_config(disable=True)
        seeded = torch.Generator().manual_seed(3)
        images.append(pipeline(2, generator=seeded, num_inference_steps=3, output_type="np").images)
    assert abs(images[0] - images[1]).max() < 1e-4


@quantized
@pytest.mark.parametrize("name", ["unet", "vit"])
def test_channels_last(name: str, bits: int | None) -> None:
    model, plain = managed(name, bits)
    inputs = inputs_of(name)
    expected, reference = run(plain, inputs), gradients(model, inputs)
    model.module.to(memory_format=torch.channels_last)
    last = (inputs[0].contiguous(memory_format=torch.channels_last), *inputs[1:])
    assert error(run(model.module, last), expected) < 1e-5
    assert_close(gradients(model, last), reference, 1e-4)


@quantized
def test_timm_features_and_a_new_head(bits: int | None) -> None:
    model, plain = managed("vit", bits)
    (x,) = inputs_of("vit")
    assert error(model.module.forward_features(x), plain.forward_features(x)) < 1e-5
    got, expected = model.module.forward_intermediates(x)[1], plain.forward_intermediates(x)[1]
    assert all(error(a, b) < 1e-5 for a, b in zip(got, expected, strict=True))
    model.module.reset_classifier(7)
    plain.reset_classifier(7)
    plain.load_state_dict(model.state_dict())
    assert model.module(x).shape == (2, 7)
    assert error(model.module(x), plain(x)) < 1e-5


@both
def test_torch_utilities(name: str, bits: int | None) -> None:
    model, _ = managed(name, bits)
    inputs = inputs_of(name)
    grads = gradients(model, inputs)
    factors = [parameter for _, parameter in model.trainable_parameters()]
    norm = torch.nn.utils.clip_grad_norm_(model.module.parameters(), 0.5)
    assert error(norm, torch.cat([grad.flatten() for grad in grads.values()]).norm()) < 1e-5
    vector = torch.nn.utils.parameters_to_vector(factors)
    torch.nn.utils.vector_to_parameters(torch.zeros_like(vector), factors)
    zeroed = run(model.module, inputs)
    model.deactivate()
    assert error(zeroed, run(model.module, inputs)) < 1e-6
    store = next(iter(managed_weights(model.module).values()))
    with pytest.raises(WeightError, match="DistributedDataParallel"):
        store._replicate_for_data_parallel()
