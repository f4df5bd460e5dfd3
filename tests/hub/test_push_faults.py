"""Faults while pushing: one commit with everything, or one clear error and no commit."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

import zoo
from zoo.errors import HubError

from .conftest import small
from .server import TOKEN, Hub

NEW = {"README.md", "adapter_config.json", "adapter_model.safetensors", "samples.png", "zoo.json"}
CREATE, REVISION, TREE = "POST api/repos/create", "GET api/models/me/x/revision", "GET api/models/me/x/tree"
BATCH, UPLOAD, VERIFY = "POST me/x.git/info/lfs", "PUT lfs/", "POST lfs/verify"
PREUPLOAD, COMMIT, YAML = "POST api/models/me/x/preupload", "POST api/models/me/x/commit", "POST api/validate-yaml"
STEPS = [CREATE, REVISION, TREE, YAML, PREUPLOAD, BATCH, UPLOAD, VERIFY, COMMIT]


@pytest.fixture(scope="module")
def model() -> zoo.Model:
    return small()


@pytest.fixture
def push(hub: Hub, model: zoo.Model, drawn: zoo.Samples) -> Callable[..., zoo.PushResult]:
    return lambda *args, **more: model.push("me/x", *args, samples=drawn, **more)


def check(hub: Hub, result: zoo.PushResult, commits: int = 2) -> None:
    """Check that there is one commit of ours, with all files, and that it is the result's."""
    log = hub.repositories["me/x"].log(result.branch)
    assert len(log) == commits
    assert result.sha in [commit.sha for commit in log]
    ours = next(commit for commit in log if commit.sha == result.sha)
    assert set(ours.files) >= NEW
    assert result.url == f"{hub.url}/me/x/commit/{result.sha}"
    titles = [commit.title for commit in log]
    assert titles.count("Add the adapter default for vae") == 1


def fails_in_one_line(push: Callable[..., zoo.PushResult], match: str, **more: object) -> None:
    with pytest.raises(HubError, match=match) as caught:
        push(**more)
    assert "\n" not in str(caught.value)
    error: BaseException | None = caught.value
    while error is not None:  # what a traceback would print
        assert TOKEN not in str(error)
        error = error.__cause__


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kind", ["status", "reset", "lost"])
def test_what_passes(step: str, kind: str, hub: Hub, push: Callable[..., zoo.PushResult]) -> None:
    hub.fails(step, kind, times=2)
    check(hub, push())
    # If the reply to the commit is lost there is still only one: the second try finds it.
    assert hub.faults[0].times == (1 if (step, kind) == (COMMIT, "lost") else 0)


# Once a file is stored its upload is not requested again, and so not verified again.
@pytest.mark.parametrize("step", [step for step in STEPS if step != VERIFY])
@pytest.mark.parametrize("kind", ["status", "reset"])
def test_what_does_not_pass(step: str, kind: str, hub: Hub, push: Callable[..., zoo.PushResult]) -> None:
    hub.fails(step, kind, times=-1)
    fails_in_one_line(push, "HTTP 503" if kind == "status" else "connection to the Hub broke")
    made = hub.repositories.get("me/x")
    assert made is None or [commit.title for commit in made.log()] == ["initial commit"]
    hub.faults.clear()
    check(hub, push())


def test_a_lost_reply_with_another_push_on_top(hub: Hub, push: Callable[..., zoo.PushResult]) -> None:
    def another(server: Hub) -> None:
        repository = server.repositories["me/x"]
        if len(repository.log()) == 2:
            repository.add({"zoo.json": b"{}"}, "somebody else's")

    hub.fails(COMMIT, "lost")
    hub.fails(REVISION, lambda server: None, times=1)  # the read before the commit
    hub.fails(REVISION, another)
    result = push()
    check(hub, result, commits=3)
    assert hub.repositories["me/x"].head().title == "somebody else's"
    assert hub.repositories["me/x"].head().parent == result.sha


def test_a_lost_reply_on_a_hub_without_a_log(hub: Hub, push: Callable[..., zoo.PushResult]) -> None:
    hub.fails("GET api/models/me/x/commits", "status", times=-1, code=404)
    hub.fails(COMMIT, "lost")
    check(hub, push())


def test_a_push_that_was_faster(hub: Hub, push: Callable[..., zoo.PushResult]) -> None:
    hub.make("me/x")
    for number in range(3):
        hub.fails(
            COMMIT, lambda server, number=number: server.repositories["me/x"].add({f"{number}.txt": b"x"}) and None
        )
    result = push()
    check(hub, result, commits=5)
    assert set(hub.repositories["me/x"].head().files) >= {*NEW, "0.txt", "1.txt", "2.txt"}


def test_others_that_are_always_faster(hub: Hub, push: Callable[..., zoo.PushResult]) -> None:
    hub.fails(COMMIT, "status", times=-1, code=409)
    fails_in_one_line(push, "HTTP 409")
    assert len(hub.repositories["me/x"].log()) == 1


def test_two_pushes_at_once(hub: Hub, drawn: zoo.Samples) -> None:
    models = [small(seed) for seed in (1, 2)]
    results: list[zoo.PushResult] = []
    threads = [
        threading.Thread(target=lambda one=one: results.append(one.push("me/x", samples=drawn))) for one in models
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    repository = hub.repositories["me/x"]
    assert sorted(result.sha for result in results) == sorted(commit.sha for commit in repository.log()[:2])
    assert len(repository.log()) == 3
    tensors = {commit.files["adapter_model.safetensors"] for commit in repository.log()[:2]}
    assert len(tensors) == 2, "each commit holds what its push sent"


@pytest.mark.parametrize(("code", "match"), [(401, "token that may write there"), (403, "token that may write|access")])
@pytest.mark.parametrize("step", [CREATE, COMMIT])
def test_no_right_to_write(code: int, match: str, step: str, hub: Hub, push: Callable[..., zoo.PushResult]) -> None:
    hub.fails(step, "status", times=-1, code=code)
    fails_in_one_line(push, match)
    assert sum(line.startswith(step) for line in hub.asked) == 1


def test_an_upload_that_arrives_damaged(hub: Hub, push: Callable[..., zoo.PushResult]) -> None:
    hub.fails(UPLOAD, "status", times=-1, code=400)  # the storage compares the digest
    fails_in_one_line(push, "HTTP 400")
    assert len(hub.repositories["me/x"].log()) == 1


# The repository and its present content


def test_pushing_the_same_again_makes_no_commit(
    hub: Hub, push: Callable[..., zoo.PushResult], caplog: pytest.LogCaptureFixture
) -> None:
    first = push()
    assert not first.unchanged
    second = push()
    assert (second.sha, second.url, second.unchanged) == (first.sha, first.url, True)
    assert [one.message for one in caplog.records if one.name == "zoo"] == [
        f"me/x@main has all of this already, in commit {first.sha}: nothing was pushed"
    ]
    check(hub, second)


def test_private_and_branches(hub: Hub, push: Callable[..., zoo.PushResult]) -> None:
    result = push(private=True, branch="dev/serif", message="Two\nlines")
    repository = hub.repositories["me/x"]
    assert repository.private
    assert [commit.title for commit in repository.log("dev/serif")] == ["Two lines", "initial commit"]
    assert [commit.title for commit in repository.log()] == ["initial commit"]
    assert result.branch == "dev/serif"
    assert push(private=True, branch="dev/serif", message="Two\nlines").unchanged
    loaded = zoo.load("me/x@dev/serif", device="cpu")
    assert loaded.adapters
    assert 'lora="me/x@dev/serif"' in repository.log("dev/serif")[0].files["README.md"].decode()


def test_what_is_public_is_not_taken_for_private(hub: Hub, push: Callable[..., zoo.PushResult]) -> None:
    hub.make("me/x")
    fails_in_one_line(push, "exists and is public, and private=True was given", private=True)
    assert len(hub.repositories["me/x"].log()) == 1


@pytest.mark.parametrize("name", ["x", "me/x/y", "../x", "me/..", "me/x@main", "me\\x", "", "https://h/me/x"])
def test_names_that_are_no_repository(name: str, hub: Hub, model: zoo.Model) -> None:
    with pytest.raises(HubError, match="not a repository's name"):
        model.push(name)
    assert hub.asked == []


@pytest.mark.parametrize("branch", ["../main", "a..b", "-x", "a b", "x.lock", "a" * 40, "/x"])
def test_names_that_are_no_branch(branch: str, hub: Hub, push: Callable[..., zoo.PushResult]) -> None:
    fails_in_one_line(push, "cannot be a branch's name", branch=branch)
    assert hub.asked == []


def test_several_adapters_in_one_commit(hub: Hub, drawn: zoo.Samples) -> None:
    model = small(names=("a", "b"))
    model.activate("b", weights=[0.5])
    result = model.push("me/x")
    repository = hub.repositories["me/x"]
    assert [commit.sha for commit in repository.log()][:-1] == [result.sha]
    files = {"adapter_config.json", "adapter_model.safetensors", "samples.png", "zoo.json"}
    every = {".gitattributes", "README.md", *(f"{name}/{file}" for name in "ab" for file in files)}
    assert set(repository.head().files) == every
    assert repository.head().files["a/samples.png"] != repository.head().files["b/samples.png"]
    assert dict(model.adapter_set.weights) == {"b": 0.5}, "the model is as it was"
    with pytest.raises(zoo.AdapterError, match=r'in its folders a, b; name one, e\.g\. lora=\{"a": "me/x/a"\}'):
        zoo.load("vae", lora="me/x", device="cpu")
    with pytest.raises(zoo.AdapterError, match="in its folders a, b"):
        zoo.load("me/x", device="cpu")
    both = zoo.load("vae", lora={"a": "me/x/a", "b": f"me/x/b@{result.sha}"}, device="cpu")
    assert both.active == ("a", "b")
    alone = zoo.load("me/x/b", device="cpu")
    for name, loaded in (("a", both), ("b", both), ("default", alone)):
        loaded.activate(name)
        model.activate("b" if name == "default" else name)
        state = model.state_dict()
        assert all((tensor == state[key]).all() for key, tensor in loaded.state_dict().items())
    assert model.push("me/y", "a", samples=drawn).sha == hub.repositories["me/y"].head().sha
    assert "adapter_config.json" in hub.repositories["me/y"].head().files


def test_nothing_to_push(hub: Hub) -> None:
    with pytest.raises(zoo.AdapterError, match="there is no adapter to push"):
        zoo.load("vae", device="cpu").push("me/x")
    assert hub.asked == []
