"""A local Hub for the real client: repositories with commits and branches, and faults on demand."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_" + "SeCrEt0123456789" * 2
LARGE = (".safetensors", ".png", ".bin")  # files for large-file storage
ERRORS = {401: "RepoNotFound", 403: "GatedRepo", 404: "RepoNotFound"}


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Fault:
    """A fault of requests that match `pattern` ("METHOD path"), `times` times (-1: always).

    kind: "status" (answers `code`), "reset" (breaks the connection before anything is done), "lost" (does it, then
    breaks the connection), "half" (breaks the connection in the middle of the content), "short" (less content than
    there is, and says so), "flip" (one bit of the content), "body" (answers `code` with `body`), or a function that is
    called with the server first.
    """

    pattern: str
    kind: str | Callable[[Hub], None]
    times: int = 1
    code: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass
class Commit:
    sha: str
    parent: str | None
    files: dict[str, bytes]
    title: str = ""
    text: str = ""


@dataclass
class Repository:
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def log(self, branch: str = "main") -> list[Commit]:
        """Return a branch's commits, the newest first."""
        found, sha = [], self.branches.get(branch)
        while sha is not None:
            found.append(self.commits[sha])
            sha = self.commits[sha].parent
        return found

    def head(self, branch: str = "main") -> Commit:
        return self.commits[self.branches[branch]]

    def add(self, files: dict[str, bytes], title: str = "", text: str = "", branch: str = "main") -> Commit:
        """Commit these files in addition to the present ones."""
        parent = self.branches.get(branch)
        every = {**(self.commits[parent].files if parent else {}), **files}
        word = json.dumps([parent, title, len(self.commits), {name: git_sha1(data) for name, data in every.items()}])
        commit = Commit(hashlib.sha1(word.encode()).hexdigest(), parent, every, title, text)
        self.commits[commit.sha], self.branches[branch] = commit, commit.sha
        return commit


class Hub(ThreadingHTTPServer):
    """`repositories`: name → Repository; `asked`: "METHOD path" of every request; `faults`: those to come."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.stored: dict[str, bytes] = {}  # large files by sha256
        self.asked: list[str] = []
        self.bodies: list[bytes] = []
        self.tokens: list[str | None] = []  # of every request
        self.faults: list[Fault] = []
        self.hidden: set[str] = set()  # names that a listing shows beside the files
        self.lock = threading.RLock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def make(self, name: str, files: dict[str, bytes] | None = None, **more: Any) -> Repository:
        made = self.repositories[name] = Repository(**more)
        made.add({".gitattributes": b"*.safetensors filter=lfs\n", **(files or {})}, "initial commit")
        return made

    def fails(self, pattern: str, kind: str | Callable[[Hub], None], times: int = 1, **more: Any) -> None:
        self.faults.append(Fault(pattern, kind, times, **more))

    def handle_error(self, *_: Any) -> None:
        pass  # tests break connections on purpose

    def fault(self, request: str) -> Fault | None:
        with self.lock:
            for one in self.faults:
                if one.times and re.search(one.pattern, request):
                    one.times -= 1
                    return one
        return None


class Gone(Exception):
    """Raised to answer with an error: its status, and the Hub's code of it."""

    def __init__(self, status: int, code: str = "") -> None:
        super().__init__(status)
        self.status, self.code = status, code


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def handle_any(self) -> None:
        url = urlsplit(self.path)
        self.where, self.query = unquote(url.path).strip("/"), parse_qs(url.query)
        request = f"{self.command} {self.where}"
        self.server.asked.append(request)
        self.server.tokens.append(self.headers.get("Authorization"))
        fault = self.fault = self.server.fault(request)
        if fault and fault.kind == "reset":
            self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
            return self.cut()
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.bodies.append(self.body)
        if fault and fault.kind == "status":
            return self.reply({"error": f"no, {self.headers.get('Authorization')}"}, fault.code, fault.headers)
        if fault and fault.kind == "body":
            return self.send(fault.body, fault.code, fault.headers)
        if fault and callable(fault.kind):
            fault.kind(self.server)
        try:
            with self.server.lock:
                self.route()
        except Gone as gone:
            self.reply({"error": "no"}, gone.status, {"X-Error-Code": gone.code} if gone.code else {})

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def route(self) -> None:
        parts = self.where.split("/")
        if self.where == "api/repos/create":
            return self.create()
        if self.where == "api/validate-yaml":
            return self.reply({"errors": [], "warnings": []})
        if parts[0] == "lfs":
            return self.store(parts[1])
        if parts[:2] == ["api", "models"]:
            name, rest = "/".join(parts[2:4]), parts[4:]
        else:
            name, rest = "/".join(parts[:2]).removesuffix(".git"), parts[2:]
        repository = self.server.repositories.get(name)
        if repository is None or (repository.private and not self.known()):
            raise Gone(401, "RepoNotFound")
        if self.command in ("POST", "PUT") and not self.known():
            raise Gone(401)
        verb = rest[0] if rest else "revision"
        if verb == "branch":
            return self.branch(repository, "/".join(rest[1:]))
        if verb == "info":
            return self.batch()
        if verb == "refs":
            rows = [{"name": b, "ref": f"refs/heads/{b}", "targetCommit": s} for b, s in repository.branches.items()]
            return self.reply({"branches": rows, "tags": [], "converts": []})
        revision, path = self.revision(repository, rest[1:])
        if verb == "commit":
            return self.commit(name, repository, revision)
        sha = repository.branches.get(revision, revision)
        if sha not in repository.commits:
            raise Gone(404, "RevisionNotFound")
        commit = repository.commits[sha]
        if verb == "revision":
            siblings = [{"rfilename": file} for file in commit.files]
            return self.reply({"id": name, "sha": sha, "private": repository.private, "siblings": siblings})
        if verb == "tree":
            return self.reply([self.entry(file, commit.files[file]) for file in commit.files] + self.extra())
        if verb == "commits":
            return self.reply([self.logged(one) for one in repository.log(revision)])
        if verb == "preupload":
            asked = [one["path"] for one in json.loads(self.body)["files"]]
            modes = [{"path": p, "uploadMode": "lfs" if p.endswith(LARGE) else "regular"} for p in asked]
            return self.reply({"files": [{**mode, "shouldIgnore": False} for mode in modes]})
        return self.resolve(commit, path)

    # Requests

    def known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def revision(self, repository: Repository, rest: list[str]) -> tuple[str, str]:
        """Return the revision at the start of a path, which may have a slash, and the rest of the path."""
        for end in range(1, len(rest) + 1):
            if (word := "/".join(rest[:end])) in {*repository.branches, *repository.commits}:
                return word, "/".join(rest[end:])
        return (rest[0], "/".join(rest[1:])) if rest else ("main", "")

    def entry(self, name: str, data: bytes) -> dict[str, Any]:
        if name.endswith(LARGE):
            sha256 = hashlib.sha256(data).hexdigest()
            pointer = b"version https://git-lfs.github.com/spec/v1\n"
            lfs = {"oid": sha256, "size": len(data), "pointerSize": 134}
            return {"type": "file", "path": name, "size": len(data), "oid": git_sha1(pointer + data[:8]), "lfs": lfs}
        return {"type": "file", "path": name, "size": len(data), "oid": git_sha1(data)}

    def extra(self) -> list[dict[str, Any]]:
        found = [{"type": "directory", "path": "folder", "size": 0, "oid": "0" * 40}]
        return found + [self.entry(name, b"x") for name in sorted(self.server.hidden)]

    def logged(self, commit: Commit) -> dict[str, Any]:
        date = "2026-01-01T00:00:00.000Z"
        return {"id": commit.sha, "authors": [], "date": date, "title": commit.title, "message": commit.text}

    # Actions

    def create(self) -> None:
        if not self.known():
            raise Gone(401)
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.server.repositories:
            raise Gone(409)
        self.server.make(name, private=asked.get("visibility") == "private" or bool(asked.get("private")))
        self.reply({"url": f"{self.server.url}/{name}", "name": name})

    def branch(self, repository: Repository, name: str) -> None:
        if name in repository.branches:
            raise Gone(409)
        repository.branches[name] = repository.branches["main"]
        self.reply({})

    def batch(self) -> None:
        rows = []
        for one in json.loads(self.body)["objects"]:
            verify = {"href": f"{self.server.url}/lfs/verify"}
            upload = {"href": f"{self.server.url}/lfs/{one['oid']}"}
            there = one["oid"] in self.server.stored
            rows.append(one if there else {**one, "actions": {"upload": upload, "verify": verify}})
        self.reply({"transfer": "basic", "objects": rows})

    def store(self, oid: str) -> None:
        if oid == "verify":
            asked = json.loads(self.body)
            if len(self.server.stored.get(asked["oid"], b"")) != asked["size"]:
                raise Gone(422)
        elif hashlib.sha256(self.body).hexdigest() != oid:
            raise Gone(400)
        else:
            self.server.stored[oid] = self.body
        self.reply({})

    def commit(self, name: str, repository: Repository, branch: str) -> None:
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        head = next(line["value"] for line in lines if line["key"] == "header")
        if branch not in repository.branches:
            raise Gone(404, "RevisionNotFound")
        if head.get("parentCommit") not in (None, repository.branches[branch]):
            raise Gone(412)
        files = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.stored[value["oid"]]
        made = repository.add(files, head["summary"], head.get("description", ""), branch)
        url = f"{self.server.url}/{name}/commit/{made.sha}"
        self.reply({"success": True, "commitOid": made.sha, "commitUrl": url, "hookOutput": ""})

    def resolve(self, commit: Commit, path: str) -> None:
        if path not in commit.files:
            raise Gone(404, "EntryNotFound")
        data = commit.files[path]
        large = path.endswith(LARGE)
        etag = hashlib.sha256(data).hexdigest() if large else git_sha1(data)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
        if large:
            headers |= {"X-Linked-ETag": f'"{etag}"', "X-Linked-Size": str(len(data))}
        status = 200
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start, status = int(wanted[1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            data = data[start:]
        self.send(data, status, headers)

    # Answers

    def reply(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        headers = dict(headers or {})
        if self.fault and self.fault.kind == "status" and status in ERRORS:
            headers.setdefault("X-Error-Code", ERRORS[status])
        self.send(json.dumps(content).encode(), status, {"Content-Type": "application/json", **headers})

    def send(self, data: bytes, status: int, headers: dict[str, str]) -> None:
        kind = self.fault.kind if self.fault else None
        if kind == "lost":
            self.cut()
            return
        if kind == "flip":
            data = data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
        shown = data[: len(data) // 2] if kind in ("half", "short") else data
        self.send_response(status)
        length = len(shown if kind == "short" else data)
        for key, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(shown)
        if kind == "half":
            self.wfile.flush()
            self.cut()

    def cut(self) -> None:
        """End the connection as a broken network would."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


@contextmanager
def running() -> Iterator[Hub]:
    """Yield a Hub that answers while the block runs."""
    server = Hub()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
