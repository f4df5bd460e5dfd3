"""Comparisons: the grid, what is kept and what is measured again, the report, and the blind page in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import zoo
from zoo.cli import main
from zoo.comparison import Plan, Way, cell, memory, run, ways
from zoo.comparison.blind import blind_page
from zoo.comparison.quality import kept
from zoo.comparison.results import Comparison
from zoo.metrics import Scores
from zoo.runs import kept_samples
from zoo.storage.atomic import write_json

BROWSER = next(
    (found for name in ("chromium", "google-chrome", "chromium-browser") if (found := shutil.which(name))), None
)


def test_the_grid_is_every_precision_alone_and_with_each_rank():
    found = ways((32, 4), (4, 16), full=True)
    assert [way.name for way in found] == [
        "32 bit",
        "4 bit",
        "full, 32 bit",
        "32 bit + LoRA 4",
        "4 bit + LoRA 4",
        "32 bit + LoRA 16",
        "4 bit + LoRA 16",
    ]
    assert len({way.folder for way in found}) == len(found)
    assert [way.kind for way in ways((8,), 8)] == ["base", "lora"]
    for bits, lora, why in (((3,), 8, "bits of 4, 8"), ((4,), 0, "ranks"), ((4,), None, "nothing to compare")):
        with pytest.raises(zoo.TuningError, match=why):
            ways(bits, lora)


def test_the_peak_of_memory_is_that_of_a_stretch():
    device = torch.device("cpu")
    torch.zeros(40_000_000).add_(1)  # 160 MB before, which are given back
    exact = memory.start(device)
    before = memory.peak(device)
    torch.zeros(20_000_000).add_(1)
    assert 0.7 * 80e6 < memory.peak(device) - before < 1.5 * 80e6 or not exact


class Measured:
    """Ways that are measured without a model; `asked` are those that were."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.fails: str = ""

    def __call__(self, plan: Plan, way: Way, folder: Path, merged: bool) -> str:
        self.asked.append(way.name)
        if way.name == self.fails:
            return "out of memory"
        for one, place in [(way, folder)] + ([(self._merged(way), self._beside(folder))] if merged else []):
            place.mkdir(parents=True, exist_ok=True)
            told = {"plan": plan.as_dict(), "way": vars(one), "merged": merged}
            write_json(place / cell.RESULT, {**json.loads(json.dumps(told)), "measured": self._found(plan, one)})
            pictures = torch.rand(plan.samples, 1, 8, 8, generator=torch.Generator().manual_seed(one.bits))
            kept_samples.keep(
                zoo.Samples(pictures, "image", [f"n{i}" for i in range(plan.samples)]), place / cell.SAMPLES
            )
        return ""

    def _merged(self, way: Way) -> Way:
        return Way(way.kind, way.bits, way.rank, merged=True)

    def _beside(self, folder: Path) -> Path:
        return folder.with_name(f"{folder.name}-merged")

    def _found(self, plan: Plan, way: Way) -> dict:
        scores = Scores("images")
        noise = torch.rand(50, generator=torch.Generator().manual_seed(0))
        scores.mean("loss", noise + (0.5 if way.kind == "base" else 0.0) + (0.01 if way.bits == 4 else 0.0))
        scores.mean("accuracy", (noise > 0.5).float())
        tuned = {"steps": 3, "trainable": 10, "batch_size": 2, "lr": 1e-3, "losses": [3.0, 2.0, 1.0], "seconds": 1.0}
        return {
            "device": "cpu",
            "memory_before": 100,
            "torch_threads": 1,
            "parameters": 100,
            "bytes": 10 * way.bits,
            "bytes_adapter": 0,
            "sampling": {"peak_memory": 2_000_000, "peak_is_own": True},
            "latency": {"seconds": 0.5, "all": [0.5]},
            "latency_of": "one sample",
            "quality": kept(scores.figures()),
            **({} if way.kind == "base" else {"tuning": {**tuned, "seconds_a_step": 0.25, "peak_memory": 3_000_000}}),
        }


@pytest.fixture
def measured(monkeypatch) -> Measured:
    fake = Measured()
    monkeypatch.setattr(run, "_measure", fake)
    return fake


def _compared(tmp_path: Path, **settings) -> Comparison:
    given = {"bits": (32, 4), "lora": 8, "full": True, "steps": 3, "samples": 6, **settings}
    return zoo.compare("gat", out=tmp_path / "out", **given)


def test_the_report_has_every_way_and_needs_nothing_else(measured, tmp_path):
    found = _compared(tmp_path, merged=True)
    names = ["32 bit", "4 bit", "full, 32 bit"]
    names += ["32 bit + LoRA 8", "32 bit + LoRA 8, merged", "4 bit + LoRA 8", "4 bit + LoRA 8, merged"]
    assert [one.way.name for one in found.cells] == names
    page = found.report.read_text("utf-8")
    for name in names:
        assert f"<td>{name}</td>" in page or f">{name}</th>" in page
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    assert "in pairs on the same examples" in page
    told = json.loads((found.out / "report.json").read_text())
    assert [way["name"] for way in told["ways"]] == names
    low, high = told["ways"][0]["quality"]["intervals"]["loss"]
    assert low < told["ways"][0]["quality"]["figures"]["loss"] < high
    assert "each" not in told["ways"][0]["quality"]
    whole, small = found.measured[2], found.measured[5]
    name, difference = small.against(whole)
    assert (name, difference.better, difference.losses) == ("loss", False, 50)
    assert difference.value == pytest.approx(0.01, abs=1e-6)
    assert found.measured[0].samples.data.shape == (6, 1, 8, 8)


def test_what_is_finished_is_kept_and_what_changed_is_measured_again(measured, tmp_path):
    measured.fails = "full, 32 bit"
    found = _compared(tmp_path)
    assert [one.way.name for one in found.cells if one.error] == ["full, 32 bit"]
    assert "out of memory" in found.report.read_text("utf-8")
    measured.fails, measured.asked = "", []
    told: list[tuple[str, str]] = []
    assert len(_compared(tmp_path, on_cell=lambda way, what: told.append((way.name, what))).measured) == 5
    assert measured.asked == ["full, 32 bit"]
    assert ("4 bit", "kept") in told
    measured.asked = []
    _compared(tmp_path, steps=4)
    assert len(measured.asked) == 5
    (tmp_path / "out" / "base-4bit" / cell.RESULT).write_text("{")
    measured.asked = []
    _compared(tmp_path, steps=4)
    assert measured.asked == ["4 bit"]
    with pytest.raises(zoo.TuningError, match=r"no setting 'step' of a comparison. Did you mean 'steps'"):
        _compared(tmp_path, step=3)
    with pytest.raises(zoo.TuningError, match="give data as a name or a path, got list"):
        zoo.compare("gat", [1], out=tmp_path / "out")


def test_the_command_says_what_it_takes(measured, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["compare", "gat", "--bits", "8,4", "--lora", "4", "--steps", "3", "--out", "here"]
    assert main([*words, "-o", "top_k=2"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].split() == ["way", "loss", "stored", "a", "step"]
    assert out.splitlines()[-1] == str(tmp_path / "here" / "report.html")
    assert "4 bit + LoRA 4: measuring" in err
    assert main([*words, "-o", "top_k=2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["options"] == {"top_k": 2}
    assert main(["compare", "gat", "--bits", "5"]) == 2
    assert "expected numbers of 4, 8, 16, 32" in capsys.readouterr().err


def test_a_blind_page_names_no_way_beside_a_sample(measured, tmp_path):
    found = _compared(tmp_path)
    page = found.blind.read_text("utf-8")
    choices = page[page.index('class="choices"') : page.index('id="count"')]
    assert not any(one.way.name in choices for one in found.cells)
    assert 'value="2-4" selected' in page  # full fine-tuning, and LoRA in 4 bit
    alone = blind_page(Comparison(found.plan, found.cells[:1], found.out)).html()
    assert "not two ways with samples" in alone


@pytest.mark.skipif(BROWSER is None, reason="no chromium and no google-chrome here")
def test_a_person_picks_in_a_browser_and_the_picks_are_counted(measured, tmp_path):
    stats = pytest.importorskip("scipy.stats")
    page = blind_page(_compared(tmp_path))
    # Picks the sample of the way of number 2 wherever it is, 9 times of 10, and says where it was.
    page.script += """
    const want = (side, way) => [...document.querySelectorAll(`#store [data-way="${way}"]`)]
      .some((one) => one.innerHTML === document.getElementById(side).innerHTML);
    const sides = [];
    for (let time = 0; time < 40; time++) {
      const side = want("left", 2) ? "left" : "right";
      sides.push(side);
      document.getElementById(time % 10 ? side : side === "left" ? "right" : "left").click();
    }
    document.getElementById("show").click();
    document.title = `${sides.filter((one) => one === "left").length}`;
    """
    path = page.write(tmp_path / "picks.html")
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'browser'}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert 8 <= int(re.search(r"<title>(\d+)</title>", done)[1]) <= 32  # left and right by chance
    cells = re.findall(r"<td>([^<]*)</td>", done[done.index('id="rows"') : done.index('id="store"')])
    assert cells[0] == "“full, 32 bit” rather than “4 bit + LoRA 8”"
    assert cells[1:3] == ["36 of 40", "90.0 %"]
    ends = stats.binomtest(36, 40).proportion_ci(method="wilson")
    assert cells[3] == f"{100 * ends.low:.1f} % to {100 * ends.high:.1f} %"
    assert "40 picked" in done


def test_one_way_is_tuned_merged_and_sampled(tmp_path):
    plan = Plan("gat", steps=3, samples=2, repeats=1, device="cpu")
    folder = tmp_path / "lora"
    folder.mkdir()
    told = {"plan": plan.as_dict(), "way": vars(Way("lora", 4, 2)), "merged": True}
    write_json(folder / "plan.json", told)
    assert cell.main([str(folder / "plan.json"), str(folder)]) == 0
    places = (folder, tmp_path / "lora-merged")
    tuned, merged = (json.loads((place / cell.RESULT).read_text())["measured"] for place in places)
    assert tuned["tuning"]["trainable"] < tuned["parameters"]
    assert len(tuned["tuning"]["losses"]) == 3
    assert tuned["bytes"] < merged["bytes"]
    assert tuned["quality"]["figures"]["loss"] == pytest.approx(merged["quality"]["figures"]["loss"], rel=1e-3)
    assert all(len(kept_samples.kept(place / cell.SAMPLES)) == 2 for place in places)
    write_json(folder / "plan.json", {**told, "plan": {**told["plan"], "data": "no-such:data"}})
    assert cell.main([str(folder / "plan.json"), str(folder)]) == 1
    assert "no-such:data" in json.loads((folder / "error.json").read_text())["error"]


@pytest.mark.slow
def test_a_way_is_measured_in_a_process_of_its_own(tmp_path):
    plan, way, folder = Plan("gat", samples=2, repeats=1, device="cpu"), Way("base", 4), tmp_path / "base"
    assert run._measure(plan, way, folder, merged=False) == ""
    told = json.loads((folder / cell.RESULT).read_text())
    assert told["way"] == vars(way)
    assert told["measured"]["sampling"]["peak_memory"] > told["measured"]["memory_before"]
