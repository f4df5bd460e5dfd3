from __future__ import annotations

import pytest
import torch

from zoo.errors import ZooError
from zoo.samples import Samples


def test_some_of_the_samples_and_several_joined_again():
    texts = Samples(["a", "b", "c"], "text", ["x", "y", "z"])
    assert isinstance(texts[1], Samples)
    assert texts[-1].data == ["c"]
    assert texts[1:].captions == ["y", "z"]
    assert Samples.joined([texts[2], texts[[0, 1]]]).data == ["c", "a", "b"]
    shown = Samples(torch.eye(3), "posterior", labels=["p", "q", "r"], images=torch.rand(3, 1, 4, 4), top=2)
    again = Samples.joined([shown[:1], shown[1:]])
    assert torch.equal(again.data, shown.data)
    assert torch.equal(again.images, shown.images)
    assert (again.labels, again.top, again.captions) == (["p", "q", "r"], 2, None)
    pictures = Samples(torch.rand(4, 3, 8, 8), "image")
    assert torch.equal(Samples.joined([pictures[2], pictures[[0, 3]]]).data, pictures.data[[2, 0, 3]])
    assert len(pictures[:0]) == 0
    with pytest.raises(IndexError):
        pictures[4]


@pytest.mark.parametrize(
    ("other", "name"),
    [
        (Samples(["a"], "text"), "kind"),
        (Samples(torch.rand(1, 1, 8, 8), "image"), "shape"),
        (Samples(torch.rand(1, 3, 8, 8), "image", ["a"]), "captions"),
    ],
)
def test_only_samples_alike_are_joined(other, name):
    with pytest.raises(ZooError, match=f"samples of one {name}"):
        Samples.joined([Samples(torch.rand(1, 3, 8, 8), "image"), other])
