"""Reconstructions, paths and the prior, and the models that have none."""

from __future__ import annotations

import pytest
import torch

import zoo
from zoo.data.letters import render
from zoo_vae import model as parts


@pytest.fixture(scope="module")
def letters():
    return zoo.load("vae", device="cpu")


def _decoded(vae, latents):
    with torch.no_grad():
        return (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)


def test_reconstructions_are_those_of_diffusers(make):
    vae, folder = make()
    model = zoo.load(str(folder), device="cpu")
    images = torch.rand(3, 3, 16, 16)
    with torch.no_grad():
        wanted = _decoded(vae, vae.encode(images * 2 - 1).latent_dist.mode())
    got = model.sample(5, data=images, seed=0)
    torch.testing.assert_close(got.data[:3], wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(got.data[3:], got.data[:2])  # again from the first
    drawn = model.sample(3, data=images, seed=0, temperature=1.0)
    assert not torch.allclose(drawn.data, wanted, atol=1e-3)
    assert torch.equal(drawn.data, model.sample(3, data=images, seed=0, temperature=1.0).data)


def test_encoding_and_decoding_are_those_of_diffusers(make):
    vae, folder = make(shift_factor=0.5, scaling_factor=0.3)
    model = zoo.load(str(folder), device="cpu")
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        wanted = vae.encode(images * 2 - 1).latent_dist.mean
    torch.testing.assert_close(parts.encode(model, images), wanted, rtol=1e-5, atol=1e-5)
    scaled = parts.encode(model, images, scaled=True)
    torch.testing.assert_close(scaled, (wanted - 0.5) * 0.3, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(parts.decode(model, scaled, scaled=True), _decoded(vae, wanted), rtol=1e-4, atol=1e-4)


def test_a_path_runs_from_image_to_image(make):
    _, folder = make()
    model = zoo.load(str(folder), device="cpu")
    images = torch.rand(3, 3, 16, 16)
    ends = model.sample(3, data=images).data
    two = model.sample(5, data=images, mode="interpolate").data
    torch.testing.assert_close(two[[0, -1]], ends[:2], rtol=1e-5, atol=1e-5)
    three = model.sample(5, data=images, mode="interpolate", ends=3).data
    torch.testing.assert_close(three[[0, 2, 4]], ends, rtol=1e-5, atol=1e-5)
    latents = parts.encode(model, images)
    torch.testing.assert_close(
        three[1], parts.decode(model, latents[:2].mean(0, keepdim=True))[0], rtol=1e-4, atol=1e-4
    )
    assert len(model.sample(1, data=images, mode="interpolate")) == 1


def test_the_prior_is_a_standard_normal(make):
    vae, folder = make(kl_weight=1.0)
    model = zoo.load(str(folder), device="cpu")
    latents = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(3))
    got = model.sample(4, seed=3)
    torch.testing.assert_close(got.data, _decoded(vae, latents), rtol=1e-5, atol=1e-5)
    still = model.sample(2, seed=3, temperature=0).data
    assert torch.equal(still[0], still[1])
    assert model.sample(1, seed=0, size=32).data.shape == (1, 3, 32, 32)


def test_a_latent_diffusion_model_has_no_prior_and_says_what_to_do(make):
    model = zoo.load(str(make()[1]), device="cpu")
    with pytest.raises(zoo.ZooError, match=r'KL weight of 1e-06.*mode="reconstruct" or mode="interpolate"'):
        model.sample(1, seed=0)


def test_a_seed_gives_the_same_images_and_leaves_the_global_state_alone(letters):
    before = torch.get_rng_state()
    first = letters.sample(3, seed=7)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(5)
    assert torch.equal(first.data, letters.sample(3, seed=7).data)
    assert not torch.equal(first.data, letters.sample(3, seed=8).data)
    assert not torch.equal(letters.sample(1).data, letters.sample(1).data)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"mdoe": "prior"}, "Did you mean 'mode'"),
        ({"mode": "dream"}, "one of 'prior'"),
        ({"mode": "reconstruct"}, "give data="),
        ({"mode": "interpolate"}, "give data="),
        ({"mode": "prior", "data": "letters:sans"}, "takes no data"),
        ({"data": "letters:sans", "ends": 1}, "from 2"),
        ({"data": torch.rand(0, 1, 32, 32)}, "at least one example"),
        ({"temperature": -1}, "from 0"),
        ({"temperature": "hot"}, "from 0"),
        ({"size": "big"}, "whole number"),
        ({"data": "letters:sans", "size": 24}, "multiple of 16"),
    ],
)
def test_options_that_do_not_fit_are_refused(letters, options, found):
    with pytest.raises(zoo.ZooError, match=found):
        letters.sample(1, seed=0, **options)


@pytest.mark.parametrize("bits", [None, 4])
def test_reconstructed_letters_can_be_read(bits):
    """A nearest-neighbour reader, which reads 9 of 10 true letters, reads nearly as many reconstructed ones."""
    model = zoo.load("vae", bits=bits, device="cpu")
    images, labels = render("sans", 104, seed=0, split="test")
    known, names = render("sans", 2600, seed=0)

    def read(pictures):
        found = names[torch.cdist(pictures.flatten(1), known.flatten(1)).argmin(1)]
        return (found == labels).float().mean().item()

    assert read(model.sample(104, data=images).data) > read(images) - 0.06


def test_samples_of_the_prior_look_like_letters(letters):
    """Nearer to some true letter than what is no letter: the means of pairs of letters."""
    known, _ = render("sans", 2600, seed=0)
    other, _ = render("sans", 104, seed=1)
    drawn = letters.sample(52, seed=0).data

    def nearest(pictures):
        return torch.cdist(pictures.flatten(1), known.flatten(1)).min(1).values.mean().item()

    assert nearest(drawn) < 0.9 * nearest((other[:52] + other[52:]) / 2)
