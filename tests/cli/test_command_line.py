"""The command line: output streams, exit codes, and modules that are not imported."""

from __future__ import annotations

import importlib
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

import zoo.cli
from zoo.cli import command_line, main

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


def test_every_command_of_a_module_has_its_name():
    found = {}
    for path in Path(zoo.cli.__file__).parent.glob("*.py"):
        if re.search("^COMMANDS =", path.read_text(encoding="utf-8"), re.MULTILINE):
            commands = importlib.import_module(f"zoo.cli.{path.stem}").COMMANDS
            found |= {command.name: path.stem for command in commands}
    assert found == zoo.cli.MODULES
    assert {name: command.name for name, command in command_line.commands.items()} == {name: name for name in found}


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
        (["tune", "ddpm", "--steps", "3", "--minutes", "1"], "give one of --steps, --minutes and --epochs"),
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
