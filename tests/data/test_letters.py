"""Letters: reproducible, complete, distinct between splits and legible."""

from __future__ import annotations

import subprocess
import sys
from itertools import islice

import pytest
import torch

from zoo import BatchRequest, DataError
from zoo.data.letters import FACES, STYLES, fresh, is_fresh, render, style_of


@pytest.mark.parametrize("style", STYLES)
def test_shapes_range_and_ink(style):
    images, labels = render(style, 60, seed=3)
    assert images.shape == (60, 1, 32, 32)
    assert images.dtype == torch.float32
    assert labels.shape == (60,)
    assert labels.dtype == torch.int64
    assert images.min() == 0
    assert 0.9 < images.max() <= 1
    # Ink is 1: a minority of the picture, in every picture, and none of it at the rim.
    share = images.mean(dim=(1, 2, 3))
    assert share.min() > 0.02
    assert share.max() < 0.5
    inner = images.clone()
    inner[..., 1:-1, 1:-1] = 0
    assert inner.max() == 0


def test_every_letter_comes_equally_often():
    _, labels = render("all", 26 * 7, seed=5)
    assert labels.bincount(minlength=26).tolist() == [7] * 26
    assert labels[:26].sort().values.tolist() == list(range(26))
    assert labels[:26].tolist() != labels[26:52].tolist()


def test_the_seed_decides_everything():
    first, labels = render("serif", 40, seed=11)
    again, labels_again = render("serif", 40, seed=11)
    other, _ = render("serif", 40, seed=12)
    assert torch.equal(first, again)
    assert torch.equal(labels, labels_again)
    assert not torch.equal(first, other)


def test_another_process_draws_the_same():
    import hashlib

    code = (
        "import hashlib; from zoo.data.letters import render; "
        "print(hashlib.sha256(render('all', 100, seed=4)[0].numpy().tobytes()).hexdigest())"
    )
    here = hashlib.sha256(render("all", 100, seed=4)[0].numpy().tobytes()).hexdigest()
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


def test_global_random_states_are_left_alone():
    import random

    import numpy as np

    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    render("sans", 30, seed=0)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert before[2] == random.getstate()


@pytest.mark.parametrize("style", ["sans", "all"])
def test_splits_share_no_rendering(style):
    train = {image.numpy().tobytes() for seed in (0, 1) for image in render(style, 2600, seed=seed)[0]}
    test = [image.numpy().tobytes() for seed in (0, 1) for image in render(style, 520, seed=seed, split="test")[0]]
    assert not train.intersection(test)
    # ... because nothing repeats at all, which the comparison above would notice.
    assert len(train) == 5200
    assert len(set(test)) == 1040


def test_styles_differ_and_all_is_their_union():
    assert sorted(FACES["all"]) == sorted(face for style in STYLES if style != "all" for face in FACES[style])
    assert len(set(FACES["all"])) == len(FACES["all"])
    sans, serif = (render(style, 26, seed=0)[0] for style in ("sans", "serif"))
    assert (sans - serif).abs().mean() > 0.01


def test_letters_can_be_told_apart():
    """A nearest-neighbour reader of one seed's letters reads another seed's."""
    known, names = render("sans", 1300, seed=0)
    seen, wanted = render("sans", 260, seed=0, split="test")
    nearest = torch.cdist(seen.flatten(1), known.flatten(1)).argmin(1)
    accuracy = (names[nearest] == wanted).float().mean()
    assert accuracy > 0.85, accuracy


@pytest.mark.parametrize("size", [8, 28, 64])
def test_sizes(size):
    images, _ = render("mono", 26, seed=0, size=size)
    assert images.shape == (26, 1, size, size)
    assert images.amax(dim=(1, 2, 3)).min() > 0.3


def test_none_and_large_seeds():
    images, labels = render("sans", 0, seed=0)
    assert images.shape == (0, 1, 32, 32)
    assert labels.shape == (0,)
    assert render("sans", 2, seed=2**64 + 5)[0].shape == (2, 1, 32, 32)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"style": "serf"}, "Did you mean 'serif'"),
        ({"split": "tset"}, "Did you mean 'test'"),
        ({"count": -1}, "count=-1"),
        ({"size": 4}, "size=4"),
    ],
)
def test_errors_say_what_to_do(options, found):
    with pytest.raises(DataError, match=found):
        render(**{"style": "sans", "count": 1, "seed": 0, **options})


def test_nothing_heavy_is_imported_with_the_module():
    code = (
        "import sys, zoo.data.letters; print([m for m in ('torch', 'numpy', 'PIL', 'matplotlib') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_pyplot_stays_out():
    code = (
        "import sys; from zoo.data.letters import render; render('all', 5, seed=0); "
        "print('matplotlib.pyplot' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"


def test_fresh_letters_are_never_the_same_and_follow_the_seed():
    def drawn(seed):
        return list(islice(fresh("letters:sans:fresh", BatchRequest(batch_size=3, seed=seed), size=16), 20))

    first = drawn(1)
    assert all(batch["images"].shape == (3, 1, 16, 16) and batch["labels"].shape == (3,) for batch in first)
    images = torch.cat([batch["images"] for batch in first])
    assert (images.min(), images.max()) == (-1, 1)
    assert len({image.numpy().tobytes() for image in images}) == 60
    assert all(torch.equal(a["images"], b["images"]) for a, b in zip(first, drawn(1), strict=True))
    assert not torch.equal(first[0]["images"], drawn(2)[0]["images"])


def test_fresh_letters_may_be_changed_and_have_colours():
    request = BatchRequest(batch_size=2)
    batch = next(fresh("letters:mono:fresh", request, channels=3, labelled=False, change=lambda x, seed: 0 * x + 0.5))
    assert set(batch) == {"images"}
    assert batch["images"].shape == (2, 3, 32, 32)
    assert batch["images"].unique().tolist() == [0.0]
    with pytest.raises(DataError, match="Did you mean 'sans'"):
        fresh("letters:sand:fresh", request)


def test_names_of_letters():
    assert (style_of("letters:sans"), style_of("letters:sans:fresh")) == (("sans", False), ("sans", True))
    assert is_fresh("letters:sans:fresh")
    assert not any(is_fresh(data) for data in ("letters:sans", "sans:fresh", None, 3))
