"""Images: one seed one result, truncation, noise, mixing, options that are refused with a reason."""

from __future__ import annotations

import pytest
import torch

import zoo


@pytest.fixture(scope="module")
def letters():
    return zoo.load("stylegan", device="cpu")


def test_a_seed_gives_the_same_images_and_leaves_the_global_state_alone(letters):
    before = torch.get_rng_state()
    first = letters.sample(3, seed=7, noise="random", crossover=4)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(5)
    assert torch.equal(first.data, letters.sample(3, seed=7, noise="random", crossover=4).data)
    assert not torch.equal(first.data, letters.sample(3, seed=8, noise="random", crossover=4).data)
    assert not torch.equal(letters.sample(1).data, letters.sample(1).data)
    assert letters.sample(70, seed=0).data.shape == (70, 1, 32, 32)


@pytest.mark.parametrize(
    ("labels", "n", "captions"),
    [
        (None, 28, "ABCDEFGHIJKLMNOPQRSTUVWXYZAB"),
        ("ZOO", 5, "ZOOZO"),
        (25, 2, "ZZ"),
        ([3, 1], 3, "DBD"),
        ("3, 1", 2, "DB"),
        (torch.tensor([4]), 1, "E"),
    ],
)
def test_labels_choose_the_letter(letters, labels, n, captions):
    samples = letters.sample(n, seed=0, labels=labels)
    assert "".join(samples.captions) == captions
    assert samples.data.shape == (n, 1, 32, 32)
    assert 0 <= samples.data.min() <= samples.data.max() <= 1


def test_truncation_draws_images_to_the_average(letters):
    def spread(**options):
        return letters.sample(20, seed=0, labels="A", noise="none", **options).data.std(dim=0).mean()

    assert spread(psi=0.0) < 1e-6
    assert spread(psi=0.0) < spread(psi=0.5) < spread()
    assert torch.equal(letters.sample(2, seed=0, psi=0.5, cutoff=0).data, letters.sample(2, seed=0).data)
    assert torch.equal(letters.sample(2, seed=0, psi=0.5, cutoff=8).data, letters.sample(2, seed=0, psi=0.5).data)


def test_noise_is_the_networks_own_or_fresh_or_none(letters):
    const, random, none = (letters.sample(2, seed=0, noise=noise).data for noise in ("const", "random", "none"))
    assert not torch.equal(const, random)
    assert not torch.equal(const, none)


def test_mixing_takes_the_second_latents_styles_from_a_layer_on(letters):
    plain = letters.sample(2, seed=0).data
    assert torch.equal(letters.sample(2, seed=0, crossover=8).data, plain)
    other = letters.sample(2, seed=0, crossover=0).data
    mixed = letters.sample(2, seed=0, crossover=4).data
    assert not torch.equal(mixed, plain)
    assert not torch.equal(mixed, other)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"spi": 0.7}, "Did you mean 'psi'"),
        ({"psi": -1.0}, "psi: expected a number from 0 to 2"),
        ({"psi": "much"}, "psi: expected a number"),
        ({"noise": "pink"}, "'const', 'random', 'none'"),
        ({"crossover": 9}, "0 to 8"),
        ({"cutoff": 1.5}, "0 to 8"),
        ({"labels": 26}, "0 to 25"),
        ({"labels": "a"}, "names"),
        ({"labels": []}, "0 to 25"),
        ({"labels": True}, "names .*numbers from 0 to 25, got True"),
    ],
)
def test_options_that_do_not_fit_are_refused(letters, options, found):
    with pytest.raises(zoo.ZooError, match=found):
        letters.sample(1, seed=0, **options)


def test_an_unconditional_generator_takes_no_labels(layouts, network, tmp_path):
    layouts.write_nvlabs(network(), tmp_path / "network.pkl")
    model = zoo.load("stylegan2-ffhq-1024", weights=str(tmp_path), device="cpu")
    assert model.sample(1, seed=0).captions is None
    with pytest.raises(zoo.ZooError, match="no classes"):
        model.sample(1, labels=[0])


@pytest.mark.parametrize("bits", [None, 4])
def test_the_embedded_models_letters_can_be_read(bits):
    """A nearest-neighbour reader, which reads 9 of 10 true letters, names most of the drawn ones."""
    from zoo.data.letters import render

    model = zoo.load("stylegan", bits=bits, device="cpu")
    samples = model.sample(104, seed=0)
    known, names = render("sans", 2600, seed=0)
    read = names[torch.cdist(samples.data.flatten(1), known.flatten(1)).argmin(1)]
    right = (read == torch.arange(104) % 26).float().mean().item()
    assert right > 0.7, right


def test_facts_name_image_classes_and_licence():
    from zoo.plugin import hooks

    facts = hooks.describe(zoo.load("stylegan", device="meta").entry)
    assert facts["image"] == "1 × 32 × 32"
    assert facts["classes"].startswith("26")
    real = hooks.describe(zoo.load("stylegan2-ffhq-1024", device="meta").entry)
    assert real["image"] == "3 × 1024 × 1024"
    assert "non-commercial" in real["warning"]
