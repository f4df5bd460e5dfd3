"""The page of `zoo play` in a browser: move a slider, see the picture change."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

BROWSER = next(
    (found for name in ("chromium", "google-chrome", "chromium-browser") if (found := shutil.which(name))), None
)
pytest.importorskip("gradio")
pytest.importorskip("playwright")


@contextmanager
def playing(*words: str) -> Iterator[str]:
    """Run `zoo play`, and yield the address of its page."""
    command = [sys.executable, "-m", "zoo", "play", *words, "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    watch = threading.Timer(120, process.kill)
    watch.start()
    try:
        said = ""
        for line in process.stdout or ():
            said += line
            if found := re.search(r"is at (http://\S+)", line):
                break
        else:
            raise AssertionError(said)
        yield found[1]
    finally:
        watch.cancel()
        process.terminate()
        process.communicate(timeout=60)


@contextmanager
def browser_at(address: str) -> Iterator[tuple[Any, list[str]]]:
    """Yield the page in Chromium, and the addresses elsewhere that it asks for."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        chromium = player.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        elsewhere: list[str] = []
        inside = (address, "data:", "blob:")
        page.on("request", lambda asked: None if asked.url.startswith(inside) else elsewhere.append(asked.url))
        page.goto(address)
        page.wait_for_selector("#draw")
        yield page, elsewhere
        chromium.close()


def changed(page: Any, before: str | None) -> str:
    """Return the address of the picture once it is another one."""
    seen = "const seen = document.querySelector('#picture img')"
    other = f"old => {{ {seen}; return seen && seen.src !== old && seen.src }}"
    return page.wait_for_function(other, arg=before).json_value()


@pytest.mark.skipif(BROWSER is None, reason="no chromium and no google-chrome here")
def test_a_slider_that_is_moved_changes_the_picture() -> None:
    with playing("stylegan", "--bits", "4") as address, browser_at(address) as (page, elsewhere):
        page.click("#draw")
        first = changed(page, None)
        slider = page.locator("#option-psi input[type=range]").bounding_box()
        page.mouse.click(slider["x"] + slider["width"] / 8, slider["y"] + slider["height"] / 2)
        second = changed(page, first)
        assert page.request.get(first).body() != page.request.get(second).body()
        assert page.locator("#files").inner_text().count(".png") == 1
        assert not elsewhere


@pytest.mark.skipif(BROWSER is None, reason="no chromium and no google-chrome here")
def test_what_cannot_be_is_said_on_the_page() -> None:
    with playing("gpt") as address, browser_at(address) as (page, _):
        page.locator("#option-max_new_tokens input, #option-max_new_tokens textarea").fill("many")
        page.click("#draw")
        page.get_by_text("expected a whole number from 1").wait_for()
        page.locator("#option-max_new_tokens input, #option-max_new_tokens textarea").fill("5")
        page.locator("#option-prompt textarea").fill("Return the number")
        page.click("#draw")
        page.wait_for_function("(document.querySelector('#words textarea') || {}).value")
        assert page.locator("#words textarea").input_value().count("Return the number") >= 4
