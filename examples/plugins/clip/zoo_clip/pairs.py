"""Read images and the texts that describe them, from whatever a user has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from zoo import Data, DataError
from zoo.data import letters
from zoo.data.images import image_items

if TYPE_CHECKING:
    from torch import Tensor

FRESH = "letters:fresh"
OWN = ("sans", "serif", "mono")
CAPTIONS = {
    "sans": "the letter {} in a sans face",
    "serif": "the letter {} in a serif face",
    "mono": "the letter {} in a mono face",
    "italic": "the letter {} in an italic face",
    "all": "the letter {}",
}
PHOTO = "a photo of {}"  # what an image of a named class is described by
PER_STYLE = {"train": 520, "test": 130}  # whole rounds of 26


@dataclass(frozen=True)
class Pairs:
    """Images with their texts.

    Attributes:
        images: as `zoo.data.images.ImageItems` holds them.
        texts: all different.
        which: int64 [n], the text of each image.
    """

    images: Sequence[Any] | Tensor
    texts: tuple[str, ...]
    which: Tensor

    def __len__(self) -> int:
        return len(self.which)


def read(data: Any, split: str) -> Pairs:
    """Return the pairs of `data`.

    It is one of:

    - None: letters in three styles, "the letter Q in a serif face"; `"letters:<style>"`: those of one; FRESH: the three
      styles, of which `batches` draws others all the time to train on;
    - images with texts: `(images, texts)`, `{"images": …, "texts": …}`, or a Dataset of `{"image": …, "text": …}`;
    - what `zoo.data.images.image_items` takes with labels, a folder by class say: "a photo of <class>".

    Raises:
        DataError: an image has no text, or the data are anything else.
    """
    if data == FRESH:
        data = None
    if data is None or (isinstance(data, str) and data.startswith("letters:")):
        return _letters(OWN if data is None else (data[8:],), split)
    items = image_items(_columns(data), split=split)
    if items.captions is not None:
        every = image_items(_columns(data), split="all").captions or ()  # an image's text is told from those of all
        unique = tuple(dict.fromkeys((*every, *items.captions)))
        number = {text: index for index, text in enumerate(unique)}
        return Pairs(items.images, unique, torch.tensor([number[text] for text in items.captions]))
    if items.labels is None or not len(items):
        raise DataError(
            "CLIP learns from images with texts: give (images, texts), a Dataset of {'image', 'text'}, or a folder "
            "with one subfolder per class"
        )
    names = items.classes or tuple(str(number) for number in range(int(items.labels.max()) + 1))
    return Pairs(items.images, tuple(PHOTO.format(name) for name in names), items.labels)


@lru_cache(maxsize=8)
def _letters(styles: tuple[str, ...], split: str) -> Pairs:
    return drawn(styles, split, PER_STYLE.get(split, 0), seed=0)


def drawn(styles: Sequence[str], split: str, count: int, *, seed: int) -> Pairs:
    """Return `count` letters of each style, 32 × 32 pixels, with their captions."""
    images, texts, which = [], [], []
    for style in styles:
        ink, labels = letters.render(style, count, seed=seed, split=split)
        images.append(ink * 2 - 1)
        which.append(labels + len(texts))
        texts += [CAPTIONS[style].format(letter) for letter in letters.LETTERS]
    return Pairs(torch.cat(images), tuple(texts), torch.cat(which))


def _columns(data: Any) -> Any:
    """Return images with texts as columns by name, and anything else as it is."""
    if isinstance(data, Data):
        return replace(data, source=_columns(data.source))
    if isinstance(data, Mapping) and "texts" in data:
        return {"image": data.get("images"), "caption": _strings(data["texts"])}
    if isinstance(data, tuple) and len(data) == 2 and isinstance(data[1], list) and all_strings(data[1]):
        return {"image": data[0], "caption": list(data[1])}
    return data


def all_strings(texts: Sequence[Any]) -> bool:
    return bool(texts) and all(isinstance(text, str) for text in texts)


def _strings(texts: Any) -> list[str]:
    if not isinstance(texts, list | tuple) or not all_strings(texts):
        raise DataError(f"texts: expected a list of str, one for each image, got {type(texts).__name__}")
    return list(texts)
