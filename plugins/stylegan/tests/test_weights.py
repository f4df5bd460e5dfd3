"""Managed weights: LoRA on the activation side equals LoRA in the weights, to second order, quantized or not."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import save_file

import zoo
from zoo.weights.walk import managed_weights
from zoo_stylegan.objective import adversarial, path_lengths, r1

CLASSES = 3


@pytest.fixture
def managed(network, tmp_path):
    """A network with random adapters everywhere, in float64: zoo's, and the same with its weights as plain tensors."""

    def made(bits, targets="all"):
        write_own(network(c_dim=CLASSES), tmp_path)
        lora = zoo.LoRA(rank=2, alpha=3, targets=targets)
        model = zoo.load(str(tmp_path), bits=bits, lora=lora, device="cpu", dtype="float64", seed=0)
        generator = torch.Generator().manual_seed(5)
        for _, parameter in model.trainable_parameters():
            with torch.no_grad():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        return model

    return made


def write_own(module, folder):
    (folder / "config.json").write_text(json.dumps({"_class_name": "StyleGAN2", **module.config}))
    save_file(module.state_dict(), folder / "model.safetensors")


def dense_weights(model):
    """Every weight as a plain tensor that depends on the adapters' parameters."""
    found = {}
    for name, store in managed_weights(model.module).items():
        weight = store.base_tensor().detach()
        for update in store.updates.values():
            weight = update(weight)
        found[name] = weight
    return found


def plain(model, network):
    """The same module with plain parameters, to be called with `dense_weights`."""
    module = network(c_dim=CLASSES).double()
    module.load_state_dict(model.state_dict())
    return module


def close(got, wanted, rtol=1e-6):
    scale = max(float(one.detach().abs().max()) for one in wanted)
    for mine, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, other, rtol=rtol, atol=rtol * scale)


@pytest.mark.parametrize("bits", [None, 8, 4])
def test_adapters_beside_the_activations_equal_adapted_weights(managed, network, layouts, bits):
    model = managed(bits)
    labels = torch.tensor([0, 1, 2, 1])
    w = model.module.generator.mapping(torch.randn(4, 12, dtype=torch.float64), labels)
    images = model.module.generator.synthesis(model.module.generator.styles(w))
    wanted = layouts.plain_generator(plain(model, network), w)
    close([images], [wanted])
    shown = torch.rand(4, 3, 16, 16, dtype=torch.float64)
    close([model.module.discriminator(shown, labels)], [plain(model, network).discriminator(shown, labels)])


@pytest.mark.parametrize("bits", [None, 8, 4])
@pytest.mark.parametrize("kind", ["whole", "r1", "path"])
def test_losses_and_their_gradients_are_those_of_plain_weights(managed, network, bits, kind):
    model = managed(bits)
    parameters = [parameter for _, parameter in model.trainable_parameters()]
    module = plain(model, network)

    class Call(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self):
            return one(self.inner, kind)

    got = torch.autograd.grad(one(model.module, kind), parameters, allow_unused=True)
    dense = {f"inner.{name}": weight for name, weight in dense_weights(model).items()}
    wanted = torch.autograd.grad(torch.func.functional_call(Call(module), dense, ()), parameters, allow_unused=True)
    assert [mine is None for mine in got] == [other is None for other in wanted]
    used = [(mine, other) for mine, other in zip(got, wanted, strict=True) if other is not None]
    assert len(used) > 10
    close(*zip(*used, strict=True))


def one(module, kind):
    generator = torch.Generator().manual_seed(3)
    labels = torch.tensor([0, 1, 2, 1])
    images = torch.rand(4, 3, 16, 16, dtype=torch.float64, generator=generator)
    z = torch.randn(4, 12, dtype=torch.float64, generator=generator)
    ws = module.generator.styles(module.generator.mapping(z, labels))
    if kind == "r1":
        images.requires_grad_()
        return r1(module.discriminator(images, labels), images)
    if kind == "path":
        return (path_lengths(module.generator, ws, generator) - 0.1).square().mean()
    module.path_length.fill_(0.2)
    total, _ = adversarial(module, images, labels, ws, index=15, seed=4, r1_gamma=2.0, path_weight=2.0)
    return total


def test_second_derivatives_pass_gradgradcheck_through_four_bits(managed):
    """Of the logits and images with respect to what goes in, as R1 and path length take them."""
    model = managed(4)
    labels = torch.tensor([1, 2])
    discriminator, generator = model.module.discriminator, model.module.generator
    images = torch.rand(2, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: discriminator(x, labels), images, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: discriminator(x, labels), images, fast_mode=True)
    ws = generator.styles(generator.mapping(torch.randn(2, 12).double(), labels)).detach().clone().requires_grad_()
    assert torch.autograd.gradgradcheck(generator.synthesis, ws, fast_mode=True)


def test_adapters_act_on_the_weights_that_take_effect(managed):
    """Factors of one size change every layer's effective weight, gain · W, by one amount, whatever its gain is."""
    model = managed(None)
    for name, store in managed_weights(model.module).items():
        (update,) = store.updates.values()
        gain = {2: store.shape[-1] ** -0.5, 4: (store.shape[1:].numel()) ** -0.5}.get(len(store.shape), 1.0)
        if ".mapping.fc" in name:
            gain /= 100
        assert update.scale * gain == pytest.approx(1.5), name


def test_adapters_save_reload_merge_and_copy(managed, tmp_path):
    for bits in (None, 4):
        folder = tmp_path / str(bits)
        model = managed(bits)
        labels = [0, 1, 2]
        wanted = model.sample(3, seed=0, labels=labels).data
        model.save_adapter(folder / "adapter")
        fresh = zoo.load(str(tmp_path), bits=bits, lora=str(folder / "adapter"), device="cpu", dtype="float64")
        assert torch.equal(fresh.sample(3, seed=0, labels=labels).data, wanted)
        assert torch.equal(copy.deepcopy(model).sample(3, seed=0, labels=labels).data, wanted)
        model.merge()
        torch.testing.assert_close(model.sample(3, seed=0, labels=labels).data, wanted, rtol=1e-5, atol=1e-5)
        model.unmerge()
        assert torch.equal(model.sample(3, seed=0, labels=labels).data, wanted)


@pytest.mark.slow
def test_the_forward_compiles(managed):
    model = managed(4)
    z, labels = torch.randn(2, 12).double(), torch.tensor([0, 2])
    with torch.no_grad():
        compiled = torch.compile(model.module, backend="aot_eager")
        torch.testing.assert_close(compiled(z, labels), model.module(z, labels))
