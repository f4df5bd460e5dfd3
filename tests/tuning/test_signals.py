"""SIGTERM and SIGHUP save as Ctrl-C does, and the process ends with the code that shells give for them."""

from __future__ import annotations

import os
import signal
import threading

import pytest
import torch

from zoo.tuning.interrupts import STOPPING, Terminated, stoppable, uninterrupted

from .helpers import names, run


@pytest.fixture(autouse=True)
def default_handlers():
    """The signals end the process when a test begins, whatever runs the tests has said."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in STOPPING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_saves_the_last_whole_step(fake, tmp_path, capfd, number, code):
    expected = run(fake())
    model, original = fake(), torch.optim.AdamW.step

    def step(self, *args, **kwargs):
        if model.calls == 4:
            os.kill(os.getpid(), number)  # within the step, which is finished first
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stopped:  # noqa: PT012
        patch.setattr(torch.optim.AdamW, "step", step)
        run(model, out=tmp_path, quiet=False)
    assert stopped.value.code == code
    assert names(tmp_path) == ["checkpoint-4", "tuning.json"]
    assert f"{signal.Signals(number).name}: stopped after step 4 of 20, saved in" in capfd.readouterr().err
    assert signal.getsignal(number) is signal.SIG_DFL
    assert run(fake(), out=tmp_path, resume=True).losses == expected.losses


def test_what_is_ignored_stays_so_and_own_handlers_stay(fake, tmp_path):
    seen = []
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))

    def kill(step, loss):
        for number in STOPPING:
            os.kill(os.getpid(), number)

    assert run(fake(), steps=3, out=tmp_path, on_step=kill).steps == 3
    assert seen == [signal.SIGTERM] * 3


def test_elsewhere_than_in_the_main_thread_nothing_is_changed():
    def work():
        with stoppable(), uninterrupted():
            found.append(signal.getsignal(signal.SIGTERM))

    found = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork with threads
def test_a_forked_worker_ends_as_it_did(tmp_path):
    with stoppable():
        child = os.fork()
        if not child:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except Terminated:
                os._exit(1)
            os._exit(2)
        _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGTERM
