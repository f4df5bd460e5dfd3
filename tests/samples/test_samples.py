from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
import torch
from PIL import Image
from rich.console import Console

from zoo.errors import DataError, OutputError, UnknownNameError, ZooError
from zoo.plugin.requests import BatchRequest, SampleRequest
from zoo.samples import Samples, grid, sheet, to_pictures


def shown(thing, **options) -> str:
    console = Console(file=io.StringIO(), width=40, **options)
    console.print(thing)
    return console.file.getvalue()


def test_options_are_taken_with_their_defaults():
    request = SampleRequest(n=2, options={"eta": 1, "prompt": "x"})
    assert request.take(steps=50, eta=0.5, prompt=None) == {"steps": 50, "eta": 1.0, "prompt": "x"}
    assert isinstance(request.take(eta=0.5, prompt="")["eta"], float)
    assert SampleRequest().take(steps=5) == {"steps": 5}


def test_an_unknown_option_is_an_error_that_names_the_near_one():
    with pytest.raises(
        UnknownNameError, match=r"no sampling option 'step': the options are eta, steps\. Did you mean 'steps'"
    ):
        SampleRequest(options={"step": 5}).take(steps=50, eta=0.0)
    with pytest.raises(UnknownNameError, match="takes no options"):
        SampleRequest(options={"step": 5}).take()


@pytest.mark.parametrize(
    ("default", "value"), [(50, "many"), (50, 2.5), (50, True), (0.5, "x"), (True, 1), (0.5, None)]
)
def test_an_option_of_another_type_is_an_error(default, value):
    with pytest.raises(ZooError, match="option 'x' takes"):
        SampleRequest(options={"x": value}).take(x=default)


@pytest.mark.parametrize("n", [0, -1, 1.0, True, "2"])
def test_requests_are_for_at_least_one(n):
    with pytest.raises(ZooError, match="at least 1"):
        SampleRequest(n=n)
    with pytest.raises(DataError, match="at least 1"):
        BatchRequest(batch_size=n)


def test_seeds_are_whole_numbers():
    with pytest.raises(ZooError, match="seed"):
        SampleRequest(seed="0")
    with pytest.raises(DataError, match="seed"):
        BatchRequest(2, seed=0.5)
    assert BatchRequest(2).training
    assert not BatchRequest(2, "test").training


def test_samples_are_items_with_a_length():
    images = torch.rand(3, 1, 4, 5)
    samples = Samples(images, "image")
    assert len(samples) == 3
    assert all(torch.equal(a, b) for a, b in zip(samples, images, strict=True))
    assert list(Samples(("a", "b"), "text")) == ["a", "b"]
    assert repr(samples) == "<Samples: 3 images of 1x4x5>"
    assert repr(Samples(["a"], "text")) == "<Samples: 1 text>"


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (torch.rand(3, 4, 4), "image", r"\[n, c, h, w\].*got \(3, 4, 4\)"),
        (torch.rand(1, 4, 4), "image", "n, c, h, w"),
        (torch.zeros(1, 1, 4, 4, dtype=torch.uint8), "image", "divide bytes by 255"),
        (["a"], "image", "got list"),
        ("abc", "text", "list of strings"),
        ([1], "text", "list of strings"),
        ([], "table", "kind 'image' or 'text' or 'posterior'"),
    ],
)
def test_data_of_another_form_is_an_error(data, kind, message):
    with pytest.raises(ZooError, match=message):
        Samples(data, kind)


def test_captions_are_one_for_each():
    with pytest.raises(ZooError, match="one caption for each of 2 samples, got 1"):
        Samples(["a", "b"], "text", ["x"])


def test_other_numbers_of_channels_stand_side_by_side():
    images = torch.rand(2, 5, 8, 6)
    (first, second) = to_pictures(images)
    assert (first.mode, first.size) == ("L", (30, 8))
    assert second.getpixel((13, 3)) == round(float(images[1, 2, 3, 1]) * 255)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_a_grid_holds_the_very_pixels_enlarged(channels, mode):
    images = torch.rand(5, channels, 8, 6)
    picture = grid(images, cell=16)
    assert picture.mode == mode
    assert picture.size == (3 * 14 + 2, 2 * 18 + 2)
    for index, original in enumerate(to_pictures(images)):
        left, top = 2 + index % 3 * 14, 2 + index // 3 * 18
        cell = picture.crop((left, top, left + 12, top + 16))
        assert cell.resize((6, 8), Image.Resampling.NEAREST).tobytes() == original.tobytes()
    assert picture.getpixel((40, 30)) == (255 if channels == 1 else (255,) * channels)  # the sixth place is empty


def test_values_are_clipped_and_half_precision_and_gradients_do_not_matter():
    images = torch.tensor([-1.0, 0.0, 0.5, 1.0, 9.0, float("nan")]).reshape(1, 1, 2, 3)
    expected = bytes([0, 0, 128, 255, 255, 0])
    assert to_pictures(images)[0].tobytes() == expected
    assert to_pictures(images.to(torch.bfloat16).requires_grad_())[0].tobytes() == expected


def test_columns_and_captions_shape_the_grid():
    images = torch.rand(4, 1, 8, 8)
    assert grid(images, columns=1, cell=8).size == (12, 42)
    assert grid(images, columns=9, cell=8).size == (42, 12)
    plain, captioned = grid(images), grid(images, captions=["one", "two\nlines", "", "w" * 90])
    assert captioned.width == plain.width
    assert captioned.height > plain.height
    below = captioned.crop((2, 2 + 96, 98, captioned.height // 2))
    assert below.getextrema()[0] < 128, "the caption is not to be seen"
    with pytest.raises(ZooError, match="at least one column"):
        grid(images, columns=0)
    with pytest.raises(ZooError, match="at least one picture"):
        grid(images[:0])


def test_pictures_are_saved_as_one_grid(tmp_path):
    samples = Samples(torch.rand(4, 3, 16, 16), "image", list("abcd"))
    path = samples.save(tmp_path / "deep" / "x.png", columns=4)
    with Image.open(path) as picture:
        assert picture.tobytes() == samples.image(columns=4).tobytes()
    for suffix in ("jpg", "webp", "PNG"):
        with Image.open(samples.save(str(tmp_path / f"y.{suffix}"))) as picture:
            assert picture.size == samples.image().size
    Samples(torch.rand(1, 4, 8, 8), "image").save(tmp_path / "alpha.jpg")


def test_texts_are_saved_as_they_are(tmp_path):
    assert Samples(["one\ttext"], "text").save(tmp_path / "a.txt").read_text(encoding="utf-8") == "one\ttext\n"
    text = Samples(["é", "b"], "text", ["x", "y"]).save(tmp_path / "b.md").read_text(encoding="utf-8")
    assert text == "=== x ===\né\n\n=== y ===\nb\n"
    assert Samples(["a", "b"], "text").text().startswith("=== 1 ===\na\n")


@pytest.mark.parametrize(("kind", "name"), [("image", "x.txt"), ("text", "x.png"), ("text", "x.py")])
def test_a_name_of_another_kind_is_an_error(tmp_path, kind, name):
    samples = Samples(torch.rand(1, 1, 4, 4) if kind == "image" else ["x"], kind)
    with pytest.raises(OutputError, match="expected a name in"):
        samples.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_samples_show_themselves_in_a_notebook():
    images = Samples(torch.rand(2, 1, 8, 8), "image")
    assert images._repr_png_().startswith(b"\x89PNG")
    assert images._repr_html_() is None
    texts = Samples(["<script>alert(1)</script>"], "text", ["<b>&"])
    html = texts._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "&lt;b&gt;&amp;" in html
    assert texts._repr_png_() is None


def test_samples_show_themselves_in_a_terminal():
    samples = Samples(torch.rand(4, 3, 32, 32), "image")
    coloured = shown(samples, force_terminal=True, color_system="truecolor")
    assert coloured.count("▀") == 40 * 20
    assert "\x1b[38;2;" in coloured
    plain = shown(samples, color_system=None)
    assert "▀" not in plain
    assert {len(line) for line in plain.splitlines()} == {40}
    texts = shown(Samples(["[red]not markup[/red]", "[/x]"], "text", ["[bold]a", "b"]))
    assert "[red]not markup[/red]" in texts
    assert "[/x]" in texts
    assert "[bold]a" in texts
    assert "0 texts" in shown(Samples([], "text"))


def test_the_other_kinds_verbs_say_what_to_do():
    with pytest.raises(ZooError, match=r"\.txt"):
        Samples(["a"], "text").image()
    with pytest.raises(ZooError, match=r"\.image\(\)"):
        Samples(torch.rand(1, 1, 2, 2), "image").text()


def test_a_sheet_has_a_labelled_row_for_each():
    before, data = Samples(torch.rand(3, 1, 32, 32), "image", list("abc")), torch.rand(5, 3, 16, 16)
    picture = sheet([("before", before), ("data", data)])
    first, second = before.image(columns=3), grid(data, columns=5)
    assert picture.height == first.height + second.height
    assert picture.width > second.width + 30
    assert picture.crop((picture.width - second.width, first.height, *picture.size)).tobytes() == second.tobytes()
    label = picture.crop((0, first.height, picture.width - second.width, picture.height)).convert("L")
    assert label.getextrema()[0] < 128, "the label is not to be seen"
    assert sheet([("x", torch.rand(26, 1, 8, 8))]).height == grid(torch.rand(26, 1, 8, 8), columns=13).height
    with pytest.raises(ZooError, match="at least one row"):
        sheet([])


def test_neither_torch_nor_pillow_is_imported_before_it_is_needed():
    code = """import sys, zoo.samples.samples, zoo.plugin.requests, zoo.storage.atomic
assert not {"torch", "PIL", "numpy", "rich", "matplotlib"} & set(sys.modules)"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=env)


def posterior(**options) -> Samples:
    data = torch.tensor([[0.9, 0.07, 0.03], [0.2, 0.3, 0.5]])
    return Samples(data, "posterior", labels=["cat", "[dog]", "eel"], **options)


def test_a_posterior_knows_its_likeliest_classes():
    samples = posterior(top=2)
    assert len(samples) == 2
    assert [tuple(item.shape) for item in samples] == [(3,), (3,)]
    assert repr(samples) == "<Samples: 2 posteriors over 3 classes>"
    assert [[label for label, _ in row] for row in samples.topk()] == [["cat", "[dog]"], ["eel", "[dog]"]]
    assert samples.topk(1)[1] == [("eel", pytest.approx(0.5))]
    assert samples.text() == "1: cat 90 %, [dog] 7.0 %\n2: eel 50 %, [dog] 30 %\n"
    assert Samples(torch.eye(2), "posterior").topk(9)[1][0] == ("1", 1.0)
    with pytest.raises(ZooError, match="kind 'posterior'"):
        Samples(["a"], "text").topk()


def test_probabilities_of_several_classes_at_once_need_not_add_up_to_one(tmp_path):
    data = torch.tensor([[0.9, 0.8, 0.1], [0.0, 0.0, 0.0]])
    samples = Samples(data, "probabilities", labels=["cat", "dog", "eel"])
    assert samples.topk(2)[0] == [("cat", pytest.approx(0.9)), ("dog", pytest.approx(0.8))]
    assert samples.save(tmp_path / "a.csv").read_text().splitlines()[1] == "1,cat,0.9,0.8,0.1"
    with pytest.raises(ZooError, match="probabilities from 0 to 1"):
        Samples(data + 0.5, "probabilities")


def test_the_old_name_of_topk_warns():
    samples = posterior(top=2)
    with pytest.warns(DeprecationWarning, match=r"Samples\.likeliest is now Samples\.topk") as caught:
        assert samples.likeliest(1) == samples.topk(1)
    assert caught[0].filename == __file__


def test_a_posterior_is_saved_as_a_table_a_picture_or_a_text(tmp_path):
    images = torch.rand(2, 1, 8, 8)
    samples = posterior(captions=["first, one", "second"], images=images)
    lines = samples.save(tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()
    assert lines == ["sample,likeliest,cat,[dog],eel", '"first, one",cat,0.9,0.07,0.03', "second,eel,0.2,0.3,0.5"]
    with Image.open(samples.save(tmp_path / "a.png")) as picture:
        assert picture.width > 100
        assert picture.tobytes() == samples.image().tobytes()
    assert posterior().image(columns=1).height > posterior().image(columns=2).height
    assert samples.save(tmp_path / "a.txt").read_text(encoding="utf-8").startswith("first, one: cat 90 %")
    with pytest.raises(OutputError, match=r"\.csv"):
        samples.save(tmp_path / "a.json")
    assert samples._repr_png_().startswith(b"\x89PNG")
    assert samples._repr_html_() is None
    large = Samples(torch.eye(2), "posterior", images=torch.rand(2, 3, 300, 200)).image()
    assert large.height < 400


def test_bars_are_as_long_as_the_probabilities():
    """The bar of .9 of 120 pixels is blue up to its end, and grey from there; labels are no TeX and are cut."""
    picture = Samples(torch.tensor([[0.9, 0.1]]), "posterior", labels=["$\\nope$", "w" * 99]).image()
    row = [picture.getpixel((x, 6)) for x in range(picture.width)]
    blue, grey = (150, 190, 235), (225, 228, 232)
    assert abs(row.count(blue) - 108) <= 1
    assert abs(row.count(grey) - 12) <= 1
    second = picture.crop((0, 22, picture.width, 35)).convert("L")
    assert second.crop((20, 0, 88, 13)).getextrema()[0] < 100  # the label
    assert second.crop((91, 0, 100, 13)).getextrema()[0] > 200  # nothing between it and the percentage
    assert second.crop((100, 0, 127, 13)).getextrema()[0] < 100


def test_a_posterior_shows_itself_in_a_terminal_and_in_a_sheet():
    console = Console(file=io.StringIO(), width=80)
    console.print(posterior())
    assert "[dog] 7.0 %" in console.file.getvalue()  # brackets are no markup
    images = torch.rand(2, 3, 8, 8)
    assert posterior().pictures() is None
    pictures, lines = posterior(images=images).pictures()
    assert torch.equal(pictures, images)
    assert lines == ["cat 90%", "eel 50%"]
    assert sheet([("after", posterior(images=images)), ("data", images)]).width > 100
    with pytest.raises(ZooError, match="rows of pictures"):
        sheet([("after", posterior())])
    with pytest.raises(ZooError, match="at least one sample"):
        Samples(torch.empty(0, 2), "posterior").image()


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (torch.rand(3), {}, r"\[n, classes\], got torch.float32 \(3,\)"),
        ([[1.0]], {}, "got list"),
        (torch.tensor([[2.0, -1.0]]), {}, "apply softmax"),
        (torch.tensor([[0.5, 0.1]]), {}, "add up to 1"),
        (torch.eye(2), {"labels": ["a"]}, "one label for each of 2 classes, got 1"),
        (torch.eye(2), {"images": torch.rand(1, 1, 4, 4)}, "one picture for each of 2 samples, got 1"),
    ],
)
def test_posteriors_are_probabilities_with_a_label_each(data, options, message):
    with pytest.raises(ZooError, match=message):
        Samples(data, "posterior", **options)
