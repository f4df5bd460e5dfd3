"""Every form in which a user may hand over images."""

from __future__ import annotations

from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from zoo import BatchRequest, Data, DataError
from zoo.data.images import image_batches, image_data, image_items, open_image, with_channels


def _read(data, *, size=8, channels=3, split="all"):
    return image_data(data, size=size, channels=channels, split=split)


def _pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def _png(path, seed: int = 0, shape=(8, 8, 3)) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = _pixels(seed, *shape)
    Image.fromarray(pixels).save(path)
    return pixels


def _expected(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1


@pytest.mark.parametrize("channels", [1, 3])
def test_letters_by_name_and_by_default(channels):
    named, labels = _read("letters:sans", channels=channels, size=16, split="test")
    own, own_labels = image_data(None, size=16, channels=channels, split="test", own="letters:sans")
    assert named.shape == (520, channels, 16, 16)
    assert torch.equal(named, own)
    assert torch.equal(labels, own_labels)
    assert named.min() == -1
    assert named.max() > 0.8
    train, _ = _read("letters:serif", size=16, split="train")
    assert len(train) % 26 == 0
    assert len(train) > 2600


def _rows(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_a_tenth_of_a_flat_folder_is_held_out_and_equal_pictures_stay_together(tmp_path):
    wanted = [_expected(_png(tmp_path / f"{i:02}.png", i % 20)) for i in range(23)]
    (tmp_path / "notes.txt").write_text("not an image")
    train, labels = _read(tmp_path, split="train")
    test, _ = _read(str(tmp_path), split="test")
    assert labels is None
    assert len(train) + len(test) == 23
    assert 2 <= len(test) <= 3
    assert not _rows(train) & _rows(test)
    assert _rows(train) | _rows(test) == _rows(torch.stack(wanted))


@pytest.mark.parametrize("form", ["folder", "list", "tensor", "pairs"])
def test_few_images_are_in_one_split_each(tmp_path, form):
    pixels = [_png(tmp_path / f"{i}.png", i) for i in range(3)]
    data = {
        "folder": tmp_path,
        "list": [Image.fromarray(p) for p in pixels],
        "tensor": torch.stack([_expected(p) for p in pixels]),
        "pairs": (torch.stack([_expected(p) for p in pixels]), torch.arange(3)),
    }[form]
    train, test = (_read(data, split=split)[0] for split in ("train", "test"))
    assert (len(train), len(test)) == (2, 1)
    assert _rows(train) | _rows(test) == _rows(_read(data)[0])
    assert not _rows(train) & _rows(test)


def test_class_folders_are_labelled_by_sorted_name(tmp_path):
    for i in range(6):
        _png(tmp_path / "dog" / f"{i}.png", i)
    for i in range(5):
        _png(tmp_path / "cat" / f"{i}.jpg", i)
    (tmp_path / "empty").mkdir()
    images, labels = _read(tmp_path, split="train")
    _, test_labels = _read(tmp_path, split="test")
    assert len(images) == 10
    assert sorted([*labels.tolist(), *test_labels.tolist()]) == [0] * 5 + [1] * 6


def test_own_splits_are_respected_whole(tmp_path):
    for i in range(20):
        _png(tmp_path / "train" / "a" / f"{i}.png", i)
    for i in range(4):
        _png(tmp_path / "val" / "a" / f"{i}.png", 100 + i)
    assert len(_read(tmp_path, split="train")[0]) == 20
    assert len(_read(tmp_path, split="test")[0]) == 4


def test_a_class_called_train_is_a_class(tmp_path):
    for name in ("car", "train"):
        for i in range(2):
            _png(tmp_path / name / f"{i}.png", i)
    assert _read(tmp_path)[1].tolist() == [0, 0, 1, 1]


def test_image_file_and_array_files(tmp_path):
    pixels = _png(tmp_path / "one.png", 7)
    assert torch.equal(_read(tmp_path / "one.png")[0][0], _expected(pixels))

    many = _pixels(1, 30, 8, 8, 3)
    np.save(tmp_path / "images.npy", many)
    np.savez(tmp_path / "both.npz", images=many, labels=np.arange(30))
    plain, none = _read(tmp_path / "images.npy")
    both, labels = _read(tmp_path / "both.npz")
    assert none is None
    assert torch.equal(plain, both)
    assert labels.tolist() == list(range(30))
    parts = [_read(tmp_path / "both.npz", split=split)[1].tolist() for split in ("train", "test")]
    assert len(parts[1]) == 3
    assert sorted(parts[0] + parts[1]) == list(range(30))


def test_arrays_never_run_code(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="not a plain NumPy file"):
        _read(tmp_path / "objects.npy")


def test_every_layout_of_tensors_is_the_same_image():
    pixels = _pixels(2, 5, 8, 8, 3)
    last = torch.from_numpy(pixels)
    first = last.permute(0, 3, 1, 2)
    wanted = first.float() / 127.5 - 1
    for data in (pixels, last, first, first.float() / 255, wanted, wanted.double(), first.numpy()):
        torch.testing.assert_close(_read(data)[0], wanted)
    grey = torch.rand(5, 8, 8)
    torch.testing.assert_close(_read(grey, channels=1)[0], grey[:, None] * 2 - 1)
    assert _read(grey > 0.5, channels=1)[0].unique().tolist() == [-1, 1]


def test_floats_are_judged_over_all_images_of_a_list():
    bright, dark = torch.full((1, 8, 8), 0.5), torch.full((1, 8, 8), -0.5)
    images, _ = _read([bright, dark], channels=1)
    assert images[:, 0, 0, 0].tolist() == [0.5, -0.5]
    assert {_read([bright, dark], channels=1, split=split)[0][0, 0, 0, 0].item() for split in ("train", "test")} == {
        0.5,
        -0.5,
    }
    assert _read([bright], channels=1)[0][0, 0, 0, 0] == 0


def test_pairs_mappings_and_datasets_agree():
    class Plain(Dataset):
        def __init__(self, items):
            self.items = items

        def __len__(self):
            return len(self.items)

        def __getitem__(self, index):
            return self.items[index]

    pixels, names = _pixels(3, 6, 8, 8, 3), [4, 0, 2, 2, 1, 3]
    wanted = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    pictures = [Image.fromarray(p) for p in pixels]
    forms = [
        (torch.from_numpy(pixels), torch.tensor(names)),
        (pixels, names),
        {"images": pixels, "labels": names},
        {"pixel_values": pixels, "labels": names},
        (pictures, names),
        list(zip(pictures, names, strict=True)),
        Plain(list(zip(pictures, names, strict=True))),
        Plain([{"image": p, "label": n} for p, n in zip(pictures, names, strict=True)]),
        TensorDataset(torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.tensor(names)),
    ]
    for data in forms:
        images, labels = _read(data)
        assert torch.equal(images, wanted)
        assert labels.tolist() == names
        found = [label for split in ("train", "test") for label in _read(data, split=split)[1].tolist()]
        assert sorted(found) == sorted(names)
    images, labels = _read(Plain(pictures))
    assert torch.equal(images, wanted)
    assert labels is None


def test_colour_grey_and_transparency():
    red = np.zeros((1, 8, 8, 3), np.uint8)
    red[..., 0] = 255
    grey, _ = _read(red, channels=1)
    assert grey[0, 0, 0, 0].item() == pytest.approx(2 * 0.299 - 1, abs=1e-6)
    assert _read(grey, channels=3)[0].shape == (1, 3, 8, 8)
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert (_read([clear])[0] == 1).all()
    half = np.zeros((1, 8, 8, 4), np.float32)
    half[..., 3] = 0.25
    torch.testing.assert_close(_read(half)[0], torch.full((1, 3, 8, 8), 0.5))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_modes_of_pillow(tmp_path, mode):
    if mode == "I;16":
        picture = Image.fromarray(np.full((8, 8), 65535, np.uint16))
    else:
        picture = Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode)
    images, _ = _read([picture])
    assert images.shape == (1, 3, 8, 8)
    torch.testing.assert_close(images, torch.ones(1, 3, 8, 8))


def test_any_shape_becomes_a_centred_square():
    wide = torch.zeros(1, 1, 10, 30)
    wide[..., 10:20] = 1  # the middle square is white
    images, _ = _read(wide, size=10, channels=1)
    assert (images == 1).all()
    for shape in [(5, 9), (33, 20), (8, 8), (7, 100)]:
        images, _ = _read(torch.rand(2, 3, *shape), size=8)
        assert images.shape == (2, 3, 8, 8)
        assert images.abs().max() <= 1


def test_photographs_are_turned_upright(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    images, _ = _read(tmp_path / "turned.png")
    assert images[0, :, 0].max() < 0 < images[0, :, -1].min()


class _Endless(IterableDataset):
    def __iter__(self):
        yield 0


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ("letters:gothic", "sans, serif"),
        ("leters:serif", "Did you mean 'letters:serif'"),
        ("no/such/folder", "no file or name"),
        (torch.zeros(3, 5, 8, 8), "1, 3 or 4 channels"),
        (torch.zeros(3, 8), "2 dimensions"),
        (torch.zeros(3, 3, 8, 8, dtype=torch.int64), "bytes"),
        (torch.full((3, 3, 8, 8), 200.0), "200"),
        (torch.full((3, 3, 8, 8), float("nan")), "nan"),
        ((torch.zeros(3, 3, 8, 8), torch.zeros(2, dtype=torch.int64)), "one length"),
        ((torch.zeros(3, 3, 8, 8), torch.zeros(3)), "whole numbers"),
        ((torch.zeros(3, 3, 8, 8), torch.tensor([0, 1, -1])), "negative"),
        ((torch.zeros(3, 3, 8, 8), ["a", 1, "c"]), "texts and numbers"),
        ({"text": ["a"]}, "no column of the images"),
        ([(torch.zeros(3, 8, 8), 1), (torch.zeros(3, 8, 8), None)], "1 of 2"),
        ([7, 8], "PIL image"),
        (_Endless(), "int"),
        (SimpleNamespace(), "SimpleNamespace"),
        (3, "int"),
    ],
)
def test_errors_say_what_was_found(data, found):
    with pytest.raises(DataError, match=found):
        _read(data, split="train")


def test_errors_about_files(tmp_path):
    with pytest.raises(DataError, match="found no files"):
        _read(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"holds no picture that can be read: broken\.png"):
        _read(tmp_path)
    (tmp_path / "table.csv").write_text("a,b")
    with pytest.raises(DataError, match=r"table\.csv"):
        _read(tmp_path / "table.csv")
    np.savez(tmp_path / "other.npz", pictures=np.zeros(3))
    with pytest.raises(DataError, match="its columns are pictures"):
        _read(tmp_path / "other.npz")
    with pytest.raises(DataError, match="Did you mean 'test'"):
        _read("letters:sans", split="tests")


def test_items_keep_their_form_for_a_model_with_its_own_preprocessing(tmp_path):
    pixels = [_png(tmp_path / label / f"{i}.png", i, (4 + i, 9, 3)) for label in ("dog", "cat") for i in range(5)]
    items = image_items(tmp_path, split="all")
    assert items.classes == ("cat", "dog")
    assert items.labels.tolist() == [0] * 5 + [1] * 5
    assert items.images[0] == tmp_path / "cat" / "0.png"
    assert np.array_equal(np.array(open_image(items.images[1])), pixels[6])
    assert image_items(tmp_path / "cat" / "0.png", split="all").images == [tmp_path / "cat" / "0.png"]

    letters = image_items(None, split="test", size=16)
    assert letters.images.shape == (520, 1, 16, 16)
    assert letters.classes == tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    picture = Image.new("RGB", (5, 4))
    assert image_items([picture], split="all").images == [picture]
    mixed = image_items([torch.zeros(3, 4, 5), torch.full((1, 6, 6), 0.5)], split="all")
    assert [tuple(image.shape) for image in mixed.images] == [(3, 4, 5), (1, 6, 6)]
    assert mixed.images[1].unique().tolist() == [0.0]
    arrays = image_items(np.full((2, 7, 5), 255, np.uint8), split="all")
    assert arrays.images.shape == (2, 1, 7, 5)
    assert arrays.images.unique().tolist() == [1.0]
    np.save(tmp_path / "arrays.npy", _pixels(9, 20, 5, 5, 3))
    assert image_items(tmp_path / "arrays.npy", split="test").images.shape == (2, 3, 5, 5)
    with pytest.raises(DataError, match="one length"):
        image_items((torch.rand(3, 1, 4, 4), [0, 1]), split="test")
    with pytest.raises(DataError, match="splits"):
        image_items(None, split="tset")


def test_grey_colour_and_transparency_convert():
    red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1)
    assert with_channels(red, 1).item() == pytest.approx(0.299 - 0.587 - 0.114)
    assert with_channels(red[:, :1], 3).shape == (1, 3, 1, 1)
    clear = torch.cat([red, torch.full((1, 1, 1, 1), -1.0)], 1)
    assert with_channels(clear, 3).flatten().tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(DataError, match="2 channels do not become 3"):
        with_channels(torch.zeros(1, 2, 1, 1), 3)


def test_batches_of_images_are_streams_with_checked_labels():
    images, labels = torch.rand(6, 1, 8, 8), torch.arange(6)
    request = BatchRequest(batch_size=4, split="test")
    whole = Data((images, labels), split="all")
    found = list(image_batches(whole, request, size=8, channels=3))
    assert [batch["images"].shape for batch in found] == [(4, 3, 8, 8), (2, 3, 8, 8)]
    assert torch.cat([batch["labels"] for batch in found]).tolist() == list(range(6))
    plain = next(image_batches((images, labels), request, size=8, channels=1, classes=(0, "toy")))
    assert set(plain) == {"images"}
    with pytest.raises(DataError, match="labels from 0 to 5"):
        image_batches(whole, request, size=8, channels=1, classes=(5, "toy"))
    with pytest.raises(DataError, match="need labels"):
        image_batches(images, request, size=8, channels=1, classes=(5, "toy"))


def test_fresh_letters_are_drawn_anew_to_train_and_held_out_ones_are_the_same():
    def some(split):
        return islice(image_batches("letters:sans:fresh", BatchRequest(26, split), size=16, channels=1), 12)

    assert len({image.numpy().tobytes() for batch in some("train") for image in batch["images"]}) == 12 * 26
    held_out, _ = _read("letters:sans", split="test", size=16, channels=1)
    assert torch.equal(torch.cat([batch["images"] for batch in some("test")]), held_out[: 12 * 26])
    with pytest.raises(DataError, match="the data have 26"):
        image_batches("letters:sans:fresh", BatchRequest(4), size=16, channels=1, classes=(10, "toy"))
