"""A kind of samples that a plugin brings is treated everywhere as zoo's own."""

from __future__ import annotations

import base64
import io
import json
import pickle
import wave
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from starlette.testclient import TestClient

import zoo
from zoo.cli import main
from zoo.comparison.outputs import apart
from zoo.errors import OutputError, PluginError, ZooError
from zoo.hub import card, push
from zoo.plugin import hooks
from zoo.plugin.hooks import AnswerError
from zoo.reports import sample_cells, samples_table
from zoo.runs import kept_samples
from zoo.samples import Samples
from zoo.samples.files import media_type
from zoo.testing import Site
from zoo.testing.drawing import samples_can_be_saved
from zoo.testing.subject import PluginUnderTest

from . import sound
from .sound import RATE, SOUND

DATA = torch.rand(3, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
ATOMS = zoo.SampleKind(
    "molecule",
    show=lambda samples: [zoo.Shown(text=one) for one in samples.data],
    files={".xyz": lambda samples: "".join(samples.data)},
)

HOOKS = """
    import zoo

    hooks = ("construct", "sample_options", "sample_kinds", "sample")
    zoo.hooks(recognises=lambda config: config.get("model_type") == "singer", **dict.fromkeys(hooks, ".sound"))
"""


def sounds(**more) -> Samples:
    return Samples(DATA, SOUND, ["low", "<b>", "high"], **more)


def installed(site: Site, folder: Path, declared: str = "SOUND") -> str:
    """Install the plugin, and return the folder of a model of it."""
    source = Path(sound.__file__).read_text(encoding="utf-8").replace("return [SOUND]", f"return [{declared}]")
    files = {"zoo_singer/__init__.py": HOOKS, "zoo_singer/sound.py": source}
    site.install("zoo-singer", {"singer": "zoo_singer"}, files)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "singer"}))
    save_file(sound.Singer().state_dict(), folder / "model.safetensors")
    return str(folder)


@pytest.fixture
def singer(site: Site, tmp_path: Path) -> str:
    """The folder of a model whose installed plugin has samples of its own kind."""
    return installed(site, tmp_path / "singer")


def heard(content: bytes) -> torch.Tensor:
    with wave.open(io.BytesIO(content)) as file:
        assert file.getframerate() == RATE
        return torch.frombuffer(bytearray(file.readframes(9999)), dtype=torch.int16) / 32767


def test_a_file_of_one_a_folder_of_all_and_a_picture(tmp_path: Path) -> None:
    samples = sounds()
    assert repr(samples) == "<Samples: 3 sounds>"
    assert samples.suffixes == (".wav", ".csv", ".png", ".jpg", ".jpeg", ".webp")
    with pytest.raises(OutputError, match=r"a \.wav file holds one sample, these are 3: give a folder"):
        samples.save(tmp_path / "a.wav")
    assert not list(tmp_path.iterdir())
    one = samples[1].save(tmp_path / "a.wav")
    assert torch.allclose(heard(one.read_bytes()), DATA[1], atol=1e-4)
    folder = samples.save(tmp_path / "all")
    assert sorted(path.name for path in folder.iterdir()) == ["1.wav", "2.wav", "3.wav"]
    assert torch.allclose(heard((folder / "3.wav").read_bytes()), DATA[2], atol=1e-4)
    assert len(samples.save(tmp_path / "a.csv").read_text().splitlines()) == 3
    assert samples.save(tmp_path / "a.png").read_bytes() == samples._repr_png_()
    with pytest.raises(OutputError, match=r"\.wav, \.csv, \.png"):
        samples.save(tmp_path / "a.txt")
    with pytest.raises(ZooError, match=r"no text of samples of kind 'sound': use \.image\(\)"):
        samples.text()
    assert media_type(samples, ".wav") == "audio/wav"
    assert (
        media_type(Samples(["a"], replace(ATOMS, media_types={".xyz": "chemical/x-xyz"})), ".xyz") == "chemical/x-xyz"
    )


def test_folders_of_zoos_own_kinds(tmp_path: Path) -> None:
    from PIL import Image

    pictures = Samples(torch.rand(11, 3, 5, 7), "image")
    folder = pictures.save(f"{tmp_path}/v1.0/")
    assert sorted(path.name for path in folder.iterdir())[:2] == ["01.png", "02.png"]
    with Image.open(folder / "11.png") as image:
        assert image.size == (7, 5), "as large as it is"
    texts = Samples(["one", "two"], "text").save(tmp_path / "texts")
    assert [path.read_text() for path in sorted(texts.iterdir())] == ["one\n", "two\n"]
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OutputError):
        pictures.save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept"


def test_terminals_notebooks_and_pages_show_it() -> None:
    samples = sounds()
    console = Console(file=io.StringIO(), width=60)
    console.print(samples)
    shown = console.file.getvalue()
    assert "audio/wav, 0.032 s" in shown
    assert "<b>" in shown
    html = samples._repr_html_()
    assert html.count("<audio controls") == html.count("<img src=") == 3
    assert "&lt;b&gt;" in html
    assert "<b>&lt;" in html
    cells = sample_cells(samples, 2)
    assert len(cells) == 2
    address = cells[0].split('<audio src="data:audio/wav;base64,')[1].split('"')[0]
    assert torch.allclose(heard(base64.b64decode(address)), DATA[0], atol=1e-4)
    assert "0.032 s" in samples_table([("before", samples), ("after", samples)])
    molecule = Samples(["C 0 0 0\n", "H 1 <0> 0\n"], ATOMS)
    assert molecule.text().startswith("=== 1 ===\nC 0 0 0")
    assert "&lt;0&gt;" in "".join(sample_cells(molecule, 2))
    assert molecule.json() == ["C 0 0 0\n", "H 1 <0> 0\n"]


def test_some_of_them_several_and_copies_keep_the_kind() -> None:
    samples = sounds()
    joined = Samples.joined([samples[:1], samples[1:]])
    for made in (joined, pickle.loads(pickle.dumps(samples))):
        assert made.sample_kind is SOUND or made.kind == "sound"
        assert torch.equal(made.data, samples.data)
        assert made.captions == samples.captions
    assert pickle.loads(pickle.dumps(Samples(["a"], "text"))).sample_kind is Samples(["a"], "text").sample_kind


def test_how_far_they_are_apart() -> None:
    other = Samples(DATA.clone(), SOUND)
    other.data[1] += 0.25
    found = apart(sounds(), other)
    assert found.values == pytest.approx((0, 0.25, 0))
    assert found.what == "mean difference of values"
    louder = replace(SOUND, apart=lambda first, second: ("loudness", [1.0] * len(first.data)))
    assert apart(Samples(DATA, louder), other).values == (1, 1, 1)
    assert apart(sounds(), Samples(DATA[:, :9], SOUND)) is None
    assert apart(Samples(["a", "b"], ATOMS), Samples(["a", "c"], ATOMS)).values == (0, 1)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Samples(3, SOUND), r"a Tensor \[n, …\] or a list of strings, got int"),
        (lambda: Samples([3], SOUND), "got list"),
        (lambda: Samples(torch.tensor(1.0), SOUND), "got Tensor"),
        (lambda: Samples(["a"], "sound"), r"'probabilities' or a zoo\.SampleKind, got 'sound'"),
        (lambda: Samples(DATA, replace(SOUND, show=lambda samples: [])).image(), "0 are shown of 3"),
        (lambda: replace(SOUND, files={"wav": sound.wav}), r"an ending such as '\.wav', got 'wav'"),
        (lambda: replace(SOUND, single=(".mp3",)), r"'\.mp3' is in single, and not in files"),
    ],
)
def test_what_cannot_be(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ZooError, match=said):
        make()


def test_pictures_of_one_kind_have_one_size() -> None:
    uneven = replace(SOUND, show=lambda samples: [zoo.Shown(picture=torch.rand(1, 2, 2 + n)) for n in range(3)])
    with pytest.raises(ZooError, match="pictures of one size"):
        Samples(DATA, uneven).image()


def test_a_run_that_goes_on_reads_what_it_has_kept(singer: str, tmp_path: Path) -> None:
    model = zoo.load(singer)
    samples = model.sample(2, seed=0)
    kept_samples.keep(samples, tmp_path / "kept")
    again = kept_samples.kept(tmp_path / "kept", lambda: model.entry)
    assert again.sample_kind is samples.sample_kind
    assert again.kind == "sound"
    assert torch.equal(again.data, samples.data)
    assert again.captions == samples.captions
    assert kept_samples.kept(tmp_path / "kept") is None


@pytest.mark.parametrize("kinds", [[SOUND, "noise"], [replace(SOUND, name="image")], SOUND, [3]])
def test_hooks_that_name_what_cannot_be(site: Site, kinds: object) -> None:
    made = ModuleType("broken")
    made.sample_kinds = zoo.hookimpl(lambda entry: kinds)
    hooks.register(made, "broken")
    with pytest.raises(AnswerError, match="sample_kinds"):
        hooks.sample_kinds(zoo.Entry("some", "broken"))


def test_the_card_of_a_pushed_model_links_the_files(tmp_path: Path) -> None:
    seen = push.shown(sounds(), tmp_path)
    assert seen == {"sheet": True, "clips": ("samples/1.wav", "samples/2.wav", "samples/3.wav")}
    assert torch.allclose(heard((tmp_path / "samples" / "2.wav").read_bytes()), DATA[1], atol=1e-4)
    assert (tmp_path / "samples.png").is_file()
    said = card.samples_of(card.Item("a", "in", {}, {}, False, **seen))
    assert said[0] == "![Samples](in/samples.png)"
    assert "[samples/2.wav](in/samples/2.wav)" in said[1]
    assert push.shown(Samples(["a", "b"], ATOMS), tmp_path / "none") == {"texts": ("a", "b")}


def test_commands_write_a_file_or_a_folder(
    singer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = zoo.load(singer).sample(3, seed=4)
    capsys.readouterr()
    assert main(["sample", singer, "-n", "3", "--seed", "4"]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert sorted(path.name for path in folder.iterdir()) == ["1.wav", "2.wav", "3.wav"]
    assert torch.allclose(heard((folder / "2.wav").read_bytes()), expected.data[1], atol=1e-4)
    assert main(["sample", singer, "--seed", "4", "--json", "--out", "one.wav"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["out"], "samples" in told) == ("sound", "one.wav", False)
    assert main(["sample", singer, "-n", "2", "--out", "two.wav"]) == 1
    assert "holds one sample" in capsys.readouterr().err


def test_a_server_sends_it_in_base64_or_as_a_file(singer: str) -> None:
    from zoo.serving.http.app import app
    from zoo.serving.runtime import Runtime
    from zoo.serving.work import Limits

    model = zoo.load(singer)
    with Runtime(model, {}, Limits()) as runtime, TestClient(app(runtime), base_url="http://localhost") as client:
        expected = model.sample(2, seed=1)

        def ask(accept: str, n: int) -> Any:
            return client.post("/v1/sample", json={"n": n, "seed": 1}, headers={"Accept": accept})

        told = ask("*/*", 2).json()
        assert (told["kind"], told["format"]) == ("sound", "audio/wav")
        assert torch.allclose(heard(base64.b64decode(told["samples"][1])), expected.data[1], atol=1e-4)
        one = ask("audio/wav", 1)
        assert one.headers["content-type"] == "audio/wav"
        assert torch.allclose(heard(one.content), model.sample(1, seed=1).data[0], atol=1e-4)
        assert "give a folder" in (refused := ask("audio/wav", 2)).json()["error"]["message"]
        assert refused.status_code == 406
        assert ask("image/png, application/json", 2).content.startswith(b"\x89PNG")
        assert ask("application/json, image/png", 2).json()["kind"] == "sound"
        none = ask("video/mp4", 1)
        assert none.status_code == 406
        assert "application/json, audio/wav" in none.json()["error"]["message"]
        assert client.post("/v1/classify", json={}).status_code == 404


def test_the_playground_shows_and_downloads_it(singer: str, tmp_path: Path) -> None:
    from zoo.playground import shown
    from zoo.playground.session import Drawn

    drawn = [Drawn("base", sounds()), Drawn("mine × 1", sounds())]
    assert shown.side_by_side(drawn).count("<audio") == 6
    paths = [Path(path).relative_to(tmp_path).as_posix() for path in shown.written(drawn, 3, tmp_path)]
    assert [path for path in paths if path.startswith("2")] == [
        *(f"2-mine-x-1-seed3/{number}.wav" for number in (1, 2, 3)),
        "2-mine-x-1-seed3.csv",
    ]


@pytest.mark.parametrize("declared", ["SOUND", '"image"'])
def test_the_contract_finds_a_kind_that_is_not_declared(site: Site, tmp_path: Path, declared: str) -> None:
    wrong = pytest.raises(PluginError, match="samples of kind 'sound' are not read again")
    folder = Path(installed(site, tmp_path / "singer", declared))
    with PluginUnderTest("singer", {"folder": folder}) as subject, wrong if "image" in declared else nullcontext():
        samples_can_be_saved.verify(subject)
