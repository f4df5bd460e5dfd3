"""The page of `zoo play` in a browser: move a slider, see the picture change."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import zoo

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
    """Return what is shown, without what gradio puts over it, once it is another that has pictures."""
    seen = "const seen = document.querySelector('#samples .zoo-shown')"
    other = f"old => {{ {seen}; return seen?.querySelector('img') && seen.innerHTML !== old && seen.innerHTML }}"
    return page.wait_for_function(other, arg=before).json_value()


def moved(page: Any, slider: str, share: float) -> None:
    """Click a slider at a share of its length."""
    end = page.locator(f"{slider} input[type=range]")
    box = end.bounding_box()
    end.click(position={"x": box["width"] * share, "y": box["height"] / 2})


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two adapters that change what vae draws, as the command line takes them."""
    folder = tmp_path_factory.mktemp("adapters")
    model = zoo.load("vae", lora={"serif": 2, "bold": 2}, seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.module.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    for name in model.adapters:
        model.save_adapter(folder / name, name)
    return ",".join(f"{name}={folder / name}" for name in model.adapters)


@pytest.mark.skipif(BROWSER is None, reason="no chromium and no google-chrome here")
def test_a_slider_that_is_moved_changes_the_picture() -> None:
    with playing("stylegan", "--bits", "4") as address, browser_at(address) as (page, elsewhere):
        page.click("#draw")
        first = changed(page, None)
        moved(page, "#option-psi", 1 / 8)
        second = changed(page, first)
        assert first.count("<img") == second.count("<img") == 4
        assert page.locator("#files").inner_text().count("samples-seed0") == 1
        with page.expect_download() as fetched:
            page.locator("#files a").first.click()
        assert fetched.value.path().read_bytes().startswith(b"\x89PNG")
        assert not elsewhere


@pytest.mark.skipif(BROWSER is None, reason="no chromium and no google-chrome here")
def test_all_ways_are_compared_and_two_browsers_do_not_mix(adapters: str) -> None:
    with playing("vae", "--adapters", adapters) as address, browser_at(address) as (page, _):
        other = page.context.browser.new_page()
        other.goto(address)
        other.wait_for_selector("#draw")
        moved(page, "#adapter-1", 5 / 8)  # of -2 to 2
        changed(page, None)
        page.click("#compare")
        page.locator("#samples h4").nth(3).wait_for()
        mix = page.locator("#samples h4").all_inner_texts()[3]
        assert page.locator("#samples h4").all_inner_texts()[:3] == ["base", "serif", "bold"]
        assert re.fullmatch(r"serif × 1 \+ bold × 0\.[3-7]5?", mix)
        rows = page.locator("#apart tbody tr").all_inner_texts()
        assert [row.split("\t")[0].strip() for row in rows] == ["serif", "bold", mix]
        assert all("0 of 4" in row for row in rows)
        other.click("#draw")
        changed(other, None)
        assert other.locator("#samples h4").all_inner_texts() == ["base", "serif × 1 + bold × 1"]
        assert page.locator("#samples h4").all_inner_texts()[3] == mix
        page.get_by_text("Quality on data").click()
        page.click("#measure")
        page.locator("#figures tbody").nth(1).wait_for()
        assert "reconstruction_mse" in page.locator("#figures").inner_text()
        assert page.locator("#figures table").nth(1).locator("tbody tr").count() == 3


@pytest.mark.skipif(BROWSER is None, reason="no chromium and no google-chrome here")
def test_what_cannot_be_is_said_on_the_page(tmp_path: Path) -> None:
    with playing("gpt") as address, browser_at(address) as (page, _):
        page.locator("#option-max_new_tokens textarea").fill("<b id=mine>many</b>")
        page.click("#draw")
        page.get_by_text("expected a whole number from 1").wait_for()
        assert "<b id=mine>many</b>" in page.locator(".toast-body").inner_text()
        assert not page.locator("#mine").count()
        page.locator("#option-max_new_tokens textarea").fill("5")
        page.locator("#seed input").fill("-3")
        page.click("#draw")
        page.get_by_text("seed: expected a whole number from 0").wait_for()
        page.locator("#seed input").fill("3")
        page.locator("#option-prompt textarea").fill("Return the number")
        page.click("#draw")
        page.wait_for_selector("#samples pre")
        assert page.locator("#samples").inner_text().count("Return the number") >= 4


@pytest.mark.skipif(BROWSER is None, reason="no chromium and no google-chrome here")
def test_a_picture_gives_one_sample_and_a_broken_one_is_said(tmp_path: Path) -> None:
    broken, picture = tmp_path / "broken.png", tmp_path / "picture.png"
    broken.write_bytes(b"no picture")
    Image.new("L", (40, 30), 200).save(picture)
    with playing("vit") as address, browser_at(address) as (page, _):
        page.locator("#option-images input[type=file]").set_input_files(str(broken))
        page.get_by_text("broken.png").wait_for()
        page.click("#draw")
        page.locator(".toast-body", has_text="broken.png").wait_for()
        page.locator("#option-images").get_by_label("Clear").click()
        page.click("#draw")
        four = changed(page, None)
        assert page.locator("#samples section").count() == 4
        page.locator("#option-images input[type=file]").set_input_files(str(picture))
        page.get_by_text("picture.png").wait_for()
        page.click("#draw")
        changed(page, four)
        assert page.locator("#samples section").count() == 1


@pytest.mark.skipif(BROWSER is None, reason="no chromium and no google-chrome here")
def test_a_narrow_window_has_all_of_the_page_and_leads_to_what_is_drawn(adapters: str) -> None:
    with playing("vae", "--adapters", adapters) as address, browser_at(address) as (page, _):
        page.set_viewport_size({"width": 400, "height": 700})
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        for number, name in enumerate(("serif", "bold")):
            box = page.locator(f"#adapter-{number} input[type=number]")
            box.fill("9")
            page.click("#draw")
            page.get_by_text(f"adapter {name}: expected a number from -2 to 2, got 9").wait_for()
            box.fill("0.5")
        page.evaluate("scrollTo(0, 0)")
        page.click("#compare")
        page.locator("#samples h4").nth(3).wait_for()
        page.locator("#apart tbody tr").nth(2).wait_for()
        page.wait_for_function("document.querySelector('#samples').getBoundingClientRect().top < innerHeight - 200")
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        inside = "[...document.querySelectorAll('#samples img')].every(one => one.getBoundingClientRect().right <= 400)"
        assert page.evaluate(inside)
