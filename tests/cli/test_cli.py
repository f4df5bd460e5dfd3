"""The command line: output streams, exit codes, and modules that are not imported."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from statistics import median

import pytest
import torch

import zoo
from zoo.cli import command_line, main
from zoo.errors import DataError
from zoo.tuning.result import TuneResult

HEAVY = (
    "torch",
    "numpy",
    "transformers",
    "diffusers",
    "timm",
    "bitsandbytes",
    "accelerate",
    "peft",
    "matplotlib",
    "PIL",
)


def run(*words: str, code: str | None = None, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `zoo WORDS` in a fresh process, or Python `code`."""
    command = [sys.executable, *(["-c", code] if code is not None else ["-m", "zoo", *words])]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | (env or {}), timeout=120)


LIGHT = (
    ["--help"],
    ["--version"],
    ["list"],
    ["list", "--json"],
    ["info", "ddpm"],
    ["info", "gpt2", "--json"],
    ["plugins"],
    ["plugins", "--quick"],
    ["tune", "--help"],
    ["sample", "no-such-model"],
    ["demo", "no-such-model"],
)


@pytest.mark.parametrize("words", LIGHT, ids=" ".join)
def test_facts_import_neither_torch_nor_a_model_library(words):
    code = f"""
        import sys
        from zoo.cli import main
        main({words!r})
        heavy = [name for name in {HEAVY!r} if name in sys.modules]
        sys.exit("imported " + ", ".join(heavy) if heavy else 0)
    """
    done = run(code=textwrap.dedent(code))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [["--help"], ["list"]], ids=" ".join)
def test_facts_come_at_once(words):
    def seconds(*command: str) -> tuple[float, float]:
        """Return (wall, processor) seconds of a child process."""
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    runs = [seconds(sys.executable, "-m", "zoo", *words) for _ in range(5)]
    assert median(processor for _, processor in runs) < 0.3
    empty = min(seconds(sys.executable, "-I", "-c", "pass")[0] for _ in range(5))
    if empty < 0.03:  # else the machine is busy, and the wall clock includes other processes
        assert min(wall for wall, _ in runs) < 0.3


def commands() -> list[list[str]]:
    return [[], *([name] for name in command_line.commands)]


@pytest.mark.parametrize("words", commands(), ids=lambda words: "zoo " + " ".join(words))
def test_every_help_ends_with_examples_that_parse(words, capsys):
    assert main([*words, "--help"]) == 0
    text = capsys.readouterr().out
    examples = [line.strip() for line in text[text.index("Examples:") :].splitlines()[1:]]
    assert len(examples) >= 2
    for example in examples:
        found = re.match(r"(?:\w+=\S+ )*zoo (\S+)(.*?)(?: \| .*)?$", example)
        assert found, example
        command = command_line.commands[found[1]]
        import shlex

        with command.make_context(found[1], shlex.split(found[2]), resilient_parsing=False):
            pass


def test_list_is_a_table_or_json(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "plugin", "weights", "license", "summary"]
    assert any(line.startswith("ddpm-cifar10 ") for line in lines)
    assert main(["list", "--json", "--plugin", "ddpm"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["plugin"] for row in rows} == {"ddpm"}
    assert {"name", "weights", "revision", "license", "summary", "targets", "keep"} <= set(rows[0])


def test_a_faulty_registry_is_a_warning_on_stderr(site, capsys):
    site.install("dist-bad", {"bad": "pkg_bad"}, {"pkg_bad/__init__.py": "", "pkg_bad/registry.toml": "[bad"})
    assert main(["list"]) == 0
    out, err = capsys.readouterr()
    assert "ddpm" in out
    assert re.fullmatch(r"warning: left out: .*pkg_bad.*\n", err)


def test_plugins_quick_names_the_broken_one_and_fails(site, capsys):
    assert main(["plugins", "--quick"]) == 0
    capsys.readouterr()
    site.install("dist-bad", {"bad": "pkg_bad"}, {"pkg_bad.py": "import no_such_module"})
    assert main(["plugins"]) == 0  # nothing was imported
    capsys.readouterr()
    assert main(["plugins", "--quick"]) == 1
    out, err = capsys.readouterr()
    assert re.search(r"^bad +1\.0 +dist-bad +\? +broken +\?$", out, re.MULTILINE)
    assert re.search(r"^ddpm .* architecture +ok ", out, re.MULTILINE)
    assert "error: bad is broken: plugin 'bad' (dist-bad 1.0) cannot be used: ModuleNotFoundError" in err
    assert main(["plugins", "--quick", "--json"]) == 1
    states = {row["name"]: row["state"] for row in json.loads(capsys.readouterr().out)["plugins"]}
    assert states["bad"] == "broken"
    assert states["gpt"] == "ok"


def test_info_marks_a_licence_that_forbids_commercial_use(site, capsys):
    text = '[faces]\nplugin = "faces"\nsummary = "x"\nlicense = "CC-BY-NC-4.0"\n'
    site.install("dist-faces", {"faces": "pkg_faces"}, {"pkg_faces/__init__.py": "", "pkg_faces/registry.toml": text})
    assert main(["info", "faces"]) == 0
    assert "CC-BY-NC-4.0 (not for commercial use)" in capsys.readouterr().out


def test_info_says_which_commit_counts(site, capsys):
    entry = '[{0}]\nplugin = "faces"\nsummary = "x"\nlicense = "MIT"\nweights = "o/r"\n'
    text = entry.format("loose") + entry.format("pinned") + 'revision = "abc"\n'
    site.install("dist-faces", {"faces": "pkg_faces"}, {"pkg_faces/__init__.py": "", "pkg_faces/registry.toml": text})
    assert main(["info", "pinned"]) == 0
    assert re.search(r"^weights +o/r @ abc$", capsys.readouterr().out, re.MULTILINE)
    assert main(["info", "loose"]) == 0
    assert re.search(r"^weights +o/r @ the newest commit \(not pinned\)$", capsys.readouterr().out, re.MULTILINE)


def test_info_json_holds_configuration_and_footprint(capsys):
    assert main(["info", "ddpm", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["config"]["_class_name"] == "UNet2DModel"
    assert "footprint" not in facts
    assert main(["info", "ddpm", "--bits", "4", "--lora", "8", "--json"]) == 0
    footprint = json.loads(capsys.readouterr().out)["footprint"]
    assert footprint["quantized_share"] > 0.9
    assert 0 < footprint["bytes"] < 0.4 * footprint["bytes_16bit"]
    assert main(["info", "ddpm", "--footprint"]) == 0
    assert re.search(r"^parameters +[\d,]+$", capsys.readouterr().out, re.MULTILINE)


# Errors


def test_an_error_is_one_line_on_stderr_with_a_suggestion():
    done = run("sample", "ddpn")
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(r"error: no model 'ddpn' in the registry\. Did you mean 'ddpm'\?.*\n", done.stderr)


def test_strict_shows_the_traceback():
    done = run("sample", "ddpn", env={"ZOO_STRICT": "1"})
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lsit"], "Did you mean 'list'?"),
        (["sample"], "Missing argument 'NAME'"),
        (["tune", "ddpm", "--stesp", "3"], "--steps"),
        (["tune", "ddpm", "--steps", "3", "--minutes", "1"], "give --steps or --minutes, not both"),
        (["tune", "ddpm", "--full", "--format", "kohya"], "--format is of an adapter's files"),
        (["tune", "ddpm", "--format", "zip"], "'zip' is not one of"),
        (["sample", "ddpm", "-n", "0"], "x>=1"),
        (["sample", "ddpm", "-o", "steps"], "expected KEY=VALUE, got 'steps'"),
        (["sample", "ddpm", "--bits", "5"], "'5' is not one of"),
    ],
)
def test_wrong_usage_exits_with_2(words, message, capsys):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


def test_a_closed_pipe_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m zoo list | head -c 1", shell=True, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("n", "")


# The commands, on a model that records its calls


class Fake:
    def __init__(self, kind: str = "text") -> None:
        self.kind, self.calls, self.error = kind, [], None

    def sample(self, n, *, seed=None, **options):
        self.calls.append(("sample", n, seed, options))
        if self.kind == "text":
            return zoo.Samples([f"text {index}" for index in range(n)], "text")
        return zoo.Samples(torch.rand(n, 1, 8, 8), "image")

    def tune(self, data, **more):
        self.calls.append(("tune", data, more))
        if self.error is not None:
            more["out"].mkdir(parents=True)
            (more["out"] / "checkpoint").mkdir()
            raise self.error
        return TuneResult(losses=(2.0, 1.0), steps=2, seconds=1.0, batch_size=4, lr=1e-3, seed=0, trainable=9)

    def evaluate(self, data):
        self.calls.append(("evaluate", data))
        return {"perplexity": 12.5, "accuracy": 0.25}

    def save_adapter(self, folder, **more):
        self.calls.append(("save_adapter", folder, *more.values()))

    def save(self, folder):
        self.calls.append(("save", folder))


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Make `zoo.load` return a `Fake`; `.loaded` are the arguments of the call."""
    made = Fake()

    def load(name, **options):
        made.loaded = (name, {key: value for key, value in options.items() if value is not None})
        return made

    monkeypatch.setattr(zoo, "load", load)
    monkeypatch.chdir(tmp_path)
    return made


def test_sample_prints_text_and_passes_every_option(fake, capsys):
    words = ["sample", "gpt", "-n", "2", "--seed", "3", "--bits", "4", "--lora", "runs/a", "--device", "cpu"]
    assert main([*words, "-o", "top-k=5", "-o", "prompt=The list", "-o", "greedy=true", "-o", "x=[1, 2]"]) == 0
    out, err = capsys.readouterr()
    assert "text 0" in out
    assert "text 1" in out
    assert err == ""
    assert fake.loaded == ("gpt", {"bits": 4, "lora": "runs/a", "device": "cpu"})
    options = {"top_k": 5, "prompt": "The list", "greedy": True, "x": [1, 2]}
    assert fake.calls == [("sample", 2, 3, options)]


def test_sample_writes_images_to_a_png_and_prints_its_name(fake, capsys, tmp_path):
    fake.kind = "image"
    assert main(["sample", "ddpm"]) == 0
    assert capsys.readouterr().out == "ddpm.png\n"
    assert (tmp_path / "ddpm.png").read_bytes().startswith(b"\x89PNG")
    assert main(["sample", "ddpm", "--json", "--out", "a.png"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "name": "ddpm",
        "n": 1,
        "seed": None,
        "kind": "image",
        "out": "a.png",
        "captions": None,
    }


def test_sample_json_holds_the_texts(fake, capsys):
    assert main(["sample", "gpt", "-n", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == ["text 0", "text 1"]


def test_tune_trains_an_adapter_and_saves_it_in_the_runs_folder(fake, capsys):
    assert main(["tune", "ddpm", "--data", "letters:serif", "--bits", "4", "--steps", "20", "--lr", "1e-3"]) == 0
    out, err = capsys.readouterr()
    folder = Path("runs/ddpm")
    assert fake.loaded == ("ddpm", {"bits": 4, "lora": 8, "seed": 0})
    expected = {"steps": 20, "batch_size": None, "lr": 1e-3, "out": folder, "resume": False, "seed": 0}
    assert fake.calls == [("tune", "letters:serif", expected), ("save_adapter", folder / "adapter")]
    assert out == "runs/ddpm/adapter\n"
    assert "zoo sample ddpm --lora runs/ddpm/adapter" in err


def test_tune_writes_the_adapter_for_another_tool(fake):
    assert main(["tune", "ddpm", "--steps", "2", "--format", "kohya"]) == 0
    assert fake.calls[-1] == ("save_adapter", Path("runs/ddpm/adapter"), "kohya")


def test_tune_full_saves_the_model(fake, capsys):
    assert main(["tune", "ddpm", "--full", "--out", "my run", "--json"]) == 0
    assert fake.loaded == ("ddpm", {"seed": 0})
    assert fake.calls[-1] == ("save", Path("my run/model"))
    facts = json.loads(capsys.readouterr().out)
    assert facts["saved"] == "my run/model"
    assert facts["losses"] == [2.0, 1.0]


def test_evaluate_prints_figures_with_the_main_one_first(fake, capsys):
    assert main(["evaluate", "gpt", "--data", "text:licences"]) == 0
    assert capsys.readouterr().out == "perplexity  12.5\naccuracy    0.25\n"
    assert fake.calls == [("evaluate", "text:licences")]
    assert main(["evaluate", "gpt", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["figures"] == {"perplexity": 12.5, "accuracy": 0.25}


def test_ctrl_c_says_how_to_resume(fake, capsys):
    fake.error = KeyboardInterrupt()
    assert main(["tune", "ddpm", "--out", "my run", "--steps", "5"]) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert err.strip() == (
        "interrupted: to go on from the last checkpoint, type zoo tune ddpm --out 'my run' --steps 5 --resume"
    )


def test_ctrl_c_elsewhere_just_ends(fake, monkeypatch, capsys):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(fake, "evaluate", stop)
    assert main(["evaluate", "gpt"]) == 130
    assert capsys.readouterr().err.strip() == "interrupted"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DataError("expected a folder,\nfound a file"), "error: expected a folder, found a file\n"),
        (FileNotFoundError(2, "No such file", "x.txt"), "error: [Errno 2] No such file: 'x.txt'\n"),
        (RuntimeError("odd"), "error: RuntimeError: odd (not a mistake of yours: ZOO_STRICT=1 shows where)\n"),
    ],
)
def test_what_a_verb_raises_is_one_line(fake, monkeypatch, capsys, error, message):
    def fail(*args):
        raise error

    monkeypatch.setattr(fake, "evaluate", fail)
    assert main(["evaluate", "gpt"]) == 1
    assert capsys.readouterr() == ("", message)
    monkeypatch.setenv("ZOO_STRICT", "1")
    with pytest.raises(type(error)):
        main(["evaluate", "gpt"])


def test_tables_are_richs_on_a_terminal(monkeypatch, capsys):
    import io

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    assert main(["list"]) == 0
    assert "─" in screen.getvalue()
    assert "ddpm-cifar10" in screen.getvalue()
