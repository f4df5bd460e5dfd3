"""Turns at a module: many threads use it, one alone changes it, and none waits for ever."""

from __future__ import annotations

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

import pytest
import torch
from torch import nn

from zoo.errors import ZooError
from zoo.torch_state import turns as module
from zoo.torch_state.modes import evaluating
from zoo.torch_state.turns import Turns, forget_turns, shared_turns, turns_of


def test_a_change_waits_for_users_and_users_for_a_change() -> None:
    turns, value, seen = Turns(), [0, 0], []

    def use() -> None:
        for _ in range(300):
            with turns, turns:
                one = value[0]
                threading.Event().wait(0)
                seen.append((one, value[1]))

    def change() -> None:
        for number in range(1, 200):
            with turns.changing(), turns, turns.changing():
                value[0] = number
                threading.Event().wait(0)
                value[1] = number

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(use), pool.submit(use), pool.submit(change)]:
            done.result(timeout=60)
    assert all(one == two for one, two in seen)
    assert value == [199, 199]
    assert not turns._users


def test_a_user_may_change_and_an_exception_ends_a_turn() -> None:
    turns = Turns()
    with turns, turns.changing():
        pass
    with pytest.raises(KeyError), turns:
        raise KeyError
    with pytest.raises(KeyError), turns.changing():
        raise KeyError
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(_entered, turns).result(timeout=10)


def _entered(turns: Turns) -> bool:
    with turns, turns.changing():
        return True


def test_two_users_that_both_want_to_change() -> None:
    turns, both = Turns(), Barrier(2)

    def change() -> str:
        with turns:
            both.wait(10)
            try:
                with turns.changing():
                    return "changed"
            except ZooError as error:
                return str(error)

    with ThreadPoolExecutor(2) as pool:
        found = sorted(one.result(timeout=30) for one in [pool.submit(change), pool.submit(change)])
    assert found[0] == "changed"
    assert "two threads want to change a model" in found[1]


def test_waiting_ends_with_an_error(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.02)
    monkeypatch.setattr(module, "LIMIT", 0.05)
    turns, inside, done = Turns(), Event(), Event()

    def use() -> None:
        with turns:
            inside.set()
            done.wait(10)

    with ThreadPoolExecutor(1) as pool:
        user = pool.submit(use)
        inside.wait(10)
        with pytest.raises(ZooError, match=r"waited .* for another thread"), turns.changing():
            pass
        done.set()
        user.result(timeout=10)
    assert "waiting for another thread" in caplog.text
    with turns.changing():
        pass


def test_turns_are_a_modules_own() -> None:
    inner = nn.Linear(2, 2)
    outer = nn.Sequential(inner)
    turns = shared_turns(outer, inner)
    assert turns_of(inner) is turns is turns_of(outer)
    for made in (copy.deepcopy(outer), pickle.loads(pickle.dumps(outer))):
        assert turns_of(made) is turns_of(made[0]) is not turns
    forget_turns(outer, inner)
    assert "_zoo_turns" not in outer.__dict__


def test_two_threads_evaluate_a_module_in_training_mode() -> None:
    """The first to be done does not put the module back into training mode under the other."""
    net = nn.Sequential(nn.Dropout(0.5)).train()
    shared_turns(net)
    x, both = torch.ones(64), Barrier(2)

    def run() -> list[bool]:
        both.wait(10)
        found = []
        for _ in range(50):
            with evaluating(net):
                found.append(torch.equal(net(x), x))
        return found

    with ThreadPoolExecutor(2) as pool:
        results = [one.result(timeout=60) for one in [pool.submit(run), pool.submit(run)]]
    assert all(map(all, results))
    assert net.training
    assert net[0].training
