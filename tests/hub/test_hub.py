"""Repositories from a Hub on this machine, through the real client, which is pointed at it in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from zoo.hub.reference import is_repository

SHA, OLD = "a" * 40, "b" * 40


class Hub(ThreadingHTTPServer):
    """Serves ``repositories``: name → commit → file → bytes, and notes what was asked of it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.asked: list[str] = []
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.respond(body=False)

    def do_GET(self) -> None:
        self.respond(body=True)

    def respond(self, body: bool) -> None:
        path = self.path.partition("?")[0].strip("/")
        self.server.asked.append(f"{self.command} {path}")
        parts = path.removeprefix("api/models/").split("/")
        name, rest = "/".join(parts[:2]), parts[2:]
        commits = self.server.repositories.get(name)
        if self.server.status != 200 or commits is None:
            code = "" if self.server.status != 200 else "RepoNotFound"
            self.send(self.server.status if code == "" else 401, b"{}", {"X-Error-Code": code} if code else {}, body)
            return
        revision = rest[1] if len(rest) > 1 else "main"
        commit = SHA if revision == "main" else revision
        if commit not in commits:
            self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body)
            return
        files = commits[commit]
        if rest[0] == "revision":
            siblings = [{"rfilename": file} for file in files]
            self.send(200, json.dumps({"id": name, "sha": commit, "siblings": siblings}).encode(), {}, body)
        elif rest[0] == "tree":
            tree = [
                {"type": "file", "path": f, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
                for f, d in files.items()
            ]
            self.send(200, json.dumps(tree).encode(), {}, body)
        else:
            content = files["/".join(rest[2:])]
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            self.send(200, content, {"ETag": etag, "X-Repo-Commit": commit}, body)

    def send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), "Content-Type": "application/json", **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def ask(hub: Hub, tmp_path: Path) -> Any:
    """ask(code): what the code prints in a process whose Hub is ours and whose cache is this test's."""

    def run(code: str) -> list[str]:
        settings = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        program = "import zoo\nfrom zoo.hub import snapshot\n" + textwrap.dedent(code)
        done = subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, **settings}, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


def llama(tmp_path: Path) -> dict[str, bytes]:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 70, "bos_token_id": 0}
    GPT2LMHeadModel(GPT2Config(**sizes, eos_token_id=0)).save_pretrained(tmp_path / "made")
    return {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}


def test_a_model_and_an_adapter_from_the_hub(hub: Hub, ask: Any, tmp_path: Path) -> None:
    files = llama(tmp_path)
    hub.repositories["me/tiny"] = {SHA: {**files, "pytorch_model.bin": b"never asked for", "run.py": b"raise"}}
    made = ask(
        """
        model = zoo.load("me/tiny", bits=4, lora=2, device="cpu")
        print(model.entry.name, model.entry.plugin, model.entry.source, model.entry.folder.name)
        model.save_adapter("%s")
        print(model.fingerprint)
        """
        % (tmp_path / "adapter")
    )
    assert made[0] == f"me/tiny gpt hub {SHA}"
    assert not [line for line in hub.asked if line.endswith((".bin", ".py"))]
    assert all(f"/resolve/{SHA}/" in f"/{line}" for line in hub.asked if "resolve" in line), "one commit for all files"
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "me/tiny"
    hub.repositories["me/letters"] = {SHA: {path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir()}}
    hub.asked.clear()
    again = ask(
        """
        model = zoo.load("me/tiny", bits=4, lora="me/letters", device="cpu")
        print(model.fingerprint, model.active)
        alone = zoo.load("me/letters", device="cpu", bits=4)
        print(alone.fingerprint, alone.active, alone.entry.name)
        """
    )
    assert again[0] == f"{made[1]} ('default',)"
    assert again[1] == f"{made[1]} ('default',) me/tiny"
    assert not [line for line in hub.asked if "me/tiny/resolve" in line and line.startswith("GET")], "cached"


def test_pickled_weights_are_fetched_only_where_there_is_nothing_else(hub: Hub, ask: Any, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "x.bin")
    save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors")
    pickled, plain = ((tmp_path / name).read_bytes() for name in ("x.bin", "x.safetensors"))
    hub.repositories["me/old"] = {SHA: {"config.json": b"{}", "pytorch_model.bin": pickled}}
    hub.repositories["me/new"] = {
        SHA: {"config.json": b"{}", "pytorch_model.bin": pickled, "model.safetensors": plain},
        OLD: {"config.json": b"{}", "model.safetensors": plain, "more/model.safetensors": plain},
    }
    lines = ask(
        f"""
        for args in (("me/old",), ("me/new",), ("me/new", "{OLD}")):
            folder = snapshot(*args)
            files = [path for path in folder.rglob("*") if path.is_file()]
            print(folder.name, *sorted(path.relative_to(folder).as_posix() for path in files))
        """
    )
    assert lines == [
        f"{SHA} config.json pytorch_model.bin",
        f"{SHA} config.json model.safetensors",
        f"{OLD} config.json model.safetensors more/model.safetensors",
    ]


def test_what_the_hub_refuses_is_one_error_that_says_what_to_do(hub: Hub, ask: Any) -> None:
    hub.repositories["me/x"] = {SHA: {"config.json": b"{}"}}
    code = """
        import time
        for args in (("me/nothing",), ("me/x", "v9"), ("a/b/c",), ("me/--",)):
            try:
                snapshot(*args)
            except zoo.HubError as error:
                print(error)
    """
    lines = ask(code)
    assert "me/nothing: no such repository, or a private one" in lines[0]
    assert "me/x@v9: the repository has no such revision" in lines[1]
    assert "a/b/c: not a repository's name, expected owner/name" in lines[2]
    assert len(lines) == 4
    hub.status = 403
    assert all(line.startswith(("me/", "a/")) for line in ask(code))
    assert len(ask(code)) == 4


@pytest.mark.parametrize("name", ["me/x", "openai-community/gpt2", "a/b.c_d-e"])
def test_names_of_repositories(name: str) -> None:
    assert is_repository(name)


@pytest.mark.parametrize("name", ["gpt2", "a/b/c", "./a", "/a/b", "../a", "a/", "/a", "", "a b/c", "ä/b", "a/b\n"])
def test_names_that_no_repository_has(name: str) -> None:
    assert not is_repository(name)
