"""Models and adapters from a local Hub: the requests, the results, and the messages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import zoo
from zoo.cli import main
from zoo.hub.download import snapshot

from .conftest import small
from .server import TOKEN, Hub, running

CONFIG, TENSORS, MANIFEST = "adapter_config.json", "adapter_model.safetensors", "zoo.json"


def tiny_gpt(folder: Path) -> dict[str, bytes]:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 70, "bos_token_id": 0}
    GPT2LMHeadModel(GPT2Config(**sizes, eos_token_id=0)).save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_base_from_the_hub_is_found_at_its_commit(hub: Hub, tmp_path: Path, drawn: zoo.Samples) -> None:
    files = tiny_gpt(tmp_path / "made")
    repository = hub.make("me/tiny", {**files, "pytorch_model.bin": b"never asked for", "run.py": b"raise"})
    sha = repository.head().sha
    model = zoo.load("me/tiny", bits=4, lora=2, device="cpu")
    assert (model.entry.name, model.entry.plugin, model.entry.source) == ("me/tiny", "gpt", "hub")
    assert not [line for line in hub.asked if line.endswith((".bin", ".py"))]
    assert all(f"/resolve/{sha}/" in line for line in hub.asked if "resolve" in line), "one commit for all files"
    model.push("me/letters", samples=drawn)
    own = json.loads(hub.repositories["me/letters"].head().files[MANIFEST])
    assert own["base"] == {
        "name": "me/tiny",
        "plugin": "gpt",
        "weights": "me/tiny",
        "revision": None,
        "commit": sha,
        "fingerprint": model.fingerprint,
    }
    card = hub.repositories["me/letters"].head().files["README.md"].decode()
    assert "base_model: me/tiny" in card
    assert f'GPT2LMHeadModel.from_pretrained("me/tiny", revision="{sha}")' in card
    # The base has a new commit; the adapter still finds the one that it was trained on.
    repository.add({"config.json": b"{}", "model.safetensors": b"another"})
    hub.asked.clear()
    again = zoo.load("me/letters", bits=4, device="cpu")
    assert (again.fingerprint, again.active, again.entry.name) == (model.fingerprint, ("default",), "me/tiny")
    assert again.entry.folder is not None
    assert again.entry.folder.name == sha
    assert not [line for line in hub.asked if "me/tiny" in line], "in the cache, and a commit does not change"
    with pytest.raises(zoo.ZooError):
        zoo.load("me/tiny", bits=4, lora="me/letters", device="cpu")


def test_a_base_that_peft_names(hub: Hub, tmp_path: Path, drawn: zoo.Samples) -> None:
    """Without zoo.json, PEFT's fields name the base and its revision."""
    sha = hub.make("me/tiny", tiny_gpt(tmp_path / "made")).head().sha
    model = zoo.load("me/tiny", revision=sha, lora=2, device="cpu")
    folder = model.save_adapter(tmp_path / "adapter")
    files = {name: (folder / name).read_bytes() for name in (CONFIG, TENSORS)}
    raw = json.loads(files[CONFIG])
    assert (raw["base_model_name_or_path"], raw["revision"]) == ("me/tiny", sha)
    hub.make("me/theirs", files)
    hub.repositories["me/tiny"].add({"config.json": b"{}"})
    assert zoo.load("me/theirs", device="cpu").fingerprint == model.fingerprint
    (folder / MANIFEST).unlink()
    assert zoo.load(str(folder), device="cpu").fingerprint == model.fingerprint


def test_pickled_weights_are_fetched_only_where_there_is_nothing_else(hub: Hub, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "x.bin")
    save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors")
    pickled, plain = ((tmp_path / name).read_bytes() for name in ("x.bin", "x.safetensors"))
    hub.make("me/old", {"config.json": b"{}", "pytorch_model.bin": pickled})
    hub.make("me/new", {"config.json": b"{}", "pytorch_model.bin": pickled, "more/model.safetensors": plain})
    for name, files in (
        ("me/old", ["config.json", "pytorch_model.bin"]),
        ("me/new", ["config.json", "more/model.safetensors"]),
    ):
        folder = snapshot(name)
        found = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        assert sorted(found) == files


def test_what_the_hub_refuses_is_one_error_that_says_what_to_do(hub: Hub) -> None:
    hub.make("me/x", {"config.json": b"{}"})
    hub.make("me/private", {"config.json": b"{}"}, private=True)
    for where, match in (
        (("me/nothing",), "me/nothing: no such repository, or a private one"),
        (("me/x", "v9"), "me/x@v9: the repository has no such revision"),
        (("a/b/c",), "a/b/c: not a repository's name, expected owner/name"),
        (("me/x", "../v"), "is no revision, expected a branch, a tag or a commit"),
    ):
        with pytest.raises(zoo.HubError, match=match):
            snapshot(*where)
    assert snapshot("me/private").is_dir(), "the token is sent"


def test_saving_what_was_loaded_writes_the_same_bytes(tmp_path: Path, hub: Hub, drawn: zoo.Samples) -> None:
    model = small()
    run = {"data": "letters:serif", "steps": 3, "batch_size": 2, "lr": 1e-3, "seconds": 0.5}
    model.records["default"] = {"training": [{**run, "first_loss": 2.5, "last_loss": 1.25}]}
    first = model.save_adapter(tmp_path / "first")
    own = json.loads((first / MANIFEST).read_text())
    own["versions"]["torch"] = "1.0"
    sums = own.pop("sha256")
    own |= {"later": {"a": "word of a newer zoo"}, "sha256": sums}
    (first / MANIFEST).write_text(json.dumps(own, indent=2, ensure_ascii=False) + "\n")
    loaded = zoo.load("vae", bits=4, lora=first, device="cpu")
    second = loaded.save_adapter(tmp_path / "second")
    model = zoo.load("vae", lora=first, device="cpu")
    model.push("me/x", samples=drawn)
    third = zoo.load("me/x", device="cpu").save_adapter(tmp_path / "third")
    for name in (CONFIG, TENSORS, MANIFEST):
        content = (first / name).read_bytes()
        assert (second / name).read_bytes() == content, name
        assert name == MANIFEST or (third / name).read_bytes() == content, name
    pushed = json.loads((third / MANIFEST).read_text())
    assert pushed == own, "the card and the picture are not beside it any more"
    # Trained again, its card has both runs.
    loaded.tune("letters:serif", steps=1, batch_size=2, quiet=True)
    again = json.loads((loaded.save_adapter(tmp_path / "fourth") / MANIFEST).read_text())
    assert [one["steps"] for one in again["training"]] == [3, 1]
    assert (again["bits"], again["scheme"]) == (4, "nf4")
    assert again["versions"]["torch"] != "1.0"


def test_the_older_format_is_read(adapter: dict[str, bytes], tmp_path: Path) -> None:
    for name, data in adapter.items():
        (tmp_path / name).write_bytes(data)
    own = json.loads(adapter[MANIFEST])
    base = {key: own["base"][key] for key in ("name", "plugin", "weights", "revision", "fingerprint")}
    older = {"format": 1, "zoo": "0.1.0", "base": base, "bits": None, "targets": own["targets"]}
    (tmp_path / MANIFEST).write_text(json.dumps({**older, "sha256": own["sha256"]}))
    assert zoo.load(str(tmp_path), device="cpu").active == ("default",)


# The command line


def test_push_info_and_sample_from_a_shell(
    hub: Hub, adapter: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "letters" / "adapter"
    folder.mkdir(parents=True)
    for name, data in adapter.items():
        (folder / name).write_bytes(data)
    assert main(["push", "letters", "me/x", "--private", "--message", "Letters", "--device", "cpu", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    repository = hub.repositories["me/x"]
    assert repository.private
    sha = repository.head().sha
    url = f"{hub.url}/me/x/commit/{sha}"
    assert told == {"url": url, "sha": sha, "repo": "me/x", "branch": "main", "unchanged": False}
    assert repository.head().title == "Letters"
    assert "samples.png" in repository.head().files
    assert main(["push", "runs/letters", "me/x", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.strip() == told["url"]
    assert main(["info", "me/x"]) == 0
    shown = capsys.readouterr().out
    assert "me/x (lora, rank 2, alpha 16)" in shown
    assert "AutoencoderKL" in shown
    assert main(["info", "me/x", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["name"] == "vae"
    assert facts["adapter"]["rank"] == 2
    assert main(["sample", "me/x", "-n", "2", "--seed", "0", "--device", "cpu", "--out", "x.png"]) == 0
    assert Path("x.png").is_file()
    assert main(["tune", "me/x", "--steps", "1", "--batch-size", "2", "--device", "cpu", "--out", "runs/more"]) == 0
    saved = json.loads(Path("runs/more/adapter/zoo.json").read_text())
    assert saved["targets"] == ["post_quant_conv"], "the adapter itself was trained on"
    capsys.readouterr()
    assert main(["push", "nowhere", "me/x"]) == 1
    assert "no saved adapter in nowhere, nowhere/adapter, runs/nowhere/adapter" in capsys.readouterr().err
    assert main(["push", "letters", "x"]) == 2


# In a process of its own, set up as a user would


def test_the_environment_is_all_it_takes(tmp_path: Path) -> None:
    """The environment variables, as the client reads them, and the warnings on stderr."""
    code = """
    import sys
    import zoo

    model = zoo.load("me/x", device="cpu")
    print(model.push("me/y", samples=model.sample(1, seed=0)).sha if len(sys.argv) > 1 else model.active)
    """
    saved = zoo.load("stylegan", lora=2, device="cpu").save_adapter(tmp_path / "saved")
    with running() as server:
        sha = server.make("me/x", {path.name: path.read_bytes() for path in saved.iterdir()}).head().sha
        settings = {
            "HF_ENDPOINT": server.url,
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }

        def run(*words: str, **more: str) -> tuple[str, str]:
            environment = {**os.environ, **settings, **more}
            command = [sys.executable, "-c", textwrap.dedent(code), *words]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr
            return done.stdout.strip(), done.stderr

        printed, _ = run("push")
        assert printed == server.repositories["me/y"].head().sha
        asked = len(server.asked)
        printed, said = run(HF_HUB_OFFLINE="1")
        assert printed == "('default',)"
        assert said.strip() == f"me/x@main: HF_HUB_OFFLINE is set; commit {sha} is used from the cache"
        assert len(server.asked) == asked
