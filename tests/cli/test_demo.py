"""The demo against a fake that has just what it reads; and, at tiny size, against the models that zoo carries."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import zoo
from zoo.catalog import registry
from zoo.catalog.entry import Entry
from zoo.cli import demo
from zoo.errors import AdapterError, OutputError, RegistryError, UnknownNameError
from zoo.samples import Samples
from zoo.tuning.loop import TuneResult
from zoo.weights.footprint import Footprint


@dataclass
class Fake:
    """Its samples depend on one number, which tuning changes and the adapter carries."""

    kind: str = "image"
    value: float = 0.0
    faithful: bool = True
    keys: tuple[str, ...] = ("images", "labels")
    device = torch.device("cpu")

    def footprint(self) -> Footprint:
        return Footprint(1_000_000, 5_000, 530_000, 20_000, 2_000_000, 0.99, 0.995)

    def evaluate(self, data=None) -> dict[str, float]:
        return {"error": 1.0 - self.value, "other": 2.0}

    def sample(self, n=1, *, seed=None, shade=0.0) -> Samples:
        if self.kind == "text":
            return Samples([f"text {index} of {self.value}" for index in range(n)], "text")
        generator = torch.Generator().manual_seed(seed)
        return Samples((torch.rand(n, 1, 8, 8, generator=generator) * (self.value + shade)).clamp(0, 1), "image")

    def batches(self, data=None, *, batch_size, split="train", seed=0):
        assert split == "test"
        labels = torch.arange(batch_size - 1, -1, -1) // 2
        images = (labels.float() / labels.max()).reshape(-1, 1, 1, 1).expand(-1, 1, 8, 8) * 2 - 1
        yield {key: {"images": images, "labels": labels}.get(key) for key in self.keys}

    def tune(self, data=None, *, steps, batch_size, lr, seed) -> TuneResult:
        self.value = 0.5
        return TuneResult((1.0,) * steps, steps, 1.0, batch_size, lr, seed, 5_000)

    def save_adapter(self, folder) -> Path:
        Path(folder).mkdir(parents=True)
        (Path(folder) / "value").write_text(str(self.value if self.faithful else self.value + 0.1))
        return Path(folder)


@pytest.fixture
def faked(monkeypatch):
    """`faked(table, **how the model is)` makes zoo.load give fakes; the list of its calls comes back."""

    def install(table=None, **how):
        calls = []

        def load(name, **options):
            calls.append((name, options))
            model = Fake(**how)
            if isinstance(options.get("lora"), str):
                model.value = float((Path(options["lora"]) / "value").read_text())
            return model

        table = {"data": "letters:serif", "steps": 7, "samples": {"n": 4}} if table is None else table
        found = Entry(name="thing", plugin="thing", demo=table)
        monkeypatch.setattr(zoo, "load", load, raising=False)
        monkeypatch.setattr(registry, "find", lambda name: found)
        return calls

    return install


def test_pictures_get_one_sheet_and_the_adapter_comes_back_equal(faked, tmp_path, capfd):
    table = {"data": "letters:serif", "steps": 7, "batch_size": 3, "lr": 0.5, "reference": "large", "samples": {"n": 4}}
    calls = faked(table)
    facts = demo.run("thing", tmp_path / "out", seed=3)
    shown = capfd.readouterr().out
    assert [name for name, _ in calls] == ["thing", "large", "thing"]
    assert all(options["bits"] == 4 for _, options in calls)
    assert calls[0][1]["lora"] == zoo.LoRA(rank=8, targets="all")
    assert calls[1][1]["device"] == "meta"
    assert calls[2][1]["lora"] == str(tmp_path / "out" / "adapter")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["adapter", "demo.json", "samples.png"]
    assert json.loads((tmp_path / "out" / "demo.json").read_text()) == facts
    assert facts["before"]["error"] == 1.0
    assert facts["after"]["error"] == 0.5
    assert facts["reload_difference"] == 0
    assert (facts["tuning"]["steps"], facts["tuning"]["batch_size"], facts["tuning"]["lr"]) == (7, 3, 0.5)
    for words in ("1,000,000", "0.265", "99.00%", "large", "largest difference is 0", "samples.png", "--lora"):
        assert words in shown.replace("\n", "")
    with Image.open(tmp_path / "out" / "samples.png") as picture:
        assert picture.height == 3 * 100
        data = picture.convert("L").crop((picture.width - 4 * 98, 200, picture.width, 300))
    # one picture of each class, in order of class: shades that rise
    assert [data.getpixel((49 + 98 * index, 50)) for index in range(4)] == [round(255 * c / 127) for c in range(4)]


def test_texts_get_one_file(faked, tmp_path):
    faked({"data": "text:licences", "samples": {"n": 2}}, kind="text")
    demo.run("thing", tmp_path, steps=2)
    text = (tmp_path / "samples.txt").read_text(encoding="utf-8")
    assert text.index("text 1 of 0.0") < text.index("text 0 of 0.5") < text.index("# data #")


def test_data_of_no_known_form_leaves_its_row_out(faked, tmp_path):
    faked(keys=("x",))
    demo.run("thing", tmp_path)
    with Image.open(tmp_path / "samples.png") as picture:
        assert picture.height == 2 * 100


def test_options_of_the_samples_come_from_the_table(faked, tmp_path):
    faked({"data": "x:y", "samples": {"n": 2, "options": {"shade": 1.0}}})
    demo.run("thing", tmp_path, steps=1)
    with Image.open(tmp_path / "samples.png") as picture:
        first = picture.convert("L").crop((picture.width - 2 * 98, 2, picture.width - 100, 98))
    assert first.getextrema()[1] > 50, "without the option the first row is black"


def test_an_adapter_that_comes_back_otherwise_is_an_error(faked, tmp_path):
    faked(faithful=False)
    with pytest.raises(AdapterError, match=r"other samples in a fresh model: the largest difference is 0\.09"):
        demo.run("thing", tmp_path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, r"thing has no demo: add a table \[thing\.demo\]"),
        ({"steps": 1}, "data is missing"),
        ({"data": "x", "step": 1}, "unknown key 'step'.*Did you mean 'steps'"),
        ({"data": "x", "steps": "many"}, "expected steps as int"),
        ({"data": "x", "lr": 1}, "expected lr as float"),
        ({"data": "x", "samples": {"count": 3}}, "unknown key 'count'"),
    ],
)
def test_tables_that_cannot_be_are_errors(faked, tmp_path, table, message):
    faked(table)
    with pytest.raises(RegistryError, match=message):
        demo.run("thing", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_shows_before_anything_is_loaded(faked, tmp_path):
    calls = faked()
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        demo.run("thing", tmp_path / "file")
    assert not calls


def test_an_unknown_name_is_an_error(tmp_path):
    with pytest.raises(UnknownNameError):
        demo.run("no-such-model", tmp_path)


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("ddpm", {"data": "letters:serif", "batch_size": 2, "samples": {"n": 2, "options": {"steps": 2}}}),
        ("gpt", {"data": "text:licences", "batch_size": 2, "samples": {"n": 1, "options": {"max_new_tokens": 4}}}),
    ],
)
def test_the_models_that_zoo_carries(name, table, tmp_path, monkeypatch):
    """Real weights, two steps; evaluation is left out, it takes longest."""
    entry = registry.find(name)
    monkeypatch.setattr(registry, "find", lambda name: replace(entry, demo=table))
    monkeypatch.setattr(zoo.Model, "evaluate", lambda self, data=None: {"figure": 1.0})
    facts = demo.run(name, tmp_path, steps=2, device="cpu")
    assert facts["reload_difference"] == 0
    assert len(facts["tuning"]["losses"]) == 2
    footprint = facts["footprints"][name]
    assert footprint["quantized_share"] > 0.98
    assert footprint["adapted_share"] > 0.98
    assert footprint["bytes"] < 0.32 * footprint["bytes_16bit"]
    written = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= written
