"""The fields of `zoo play`, without a browser: each option that a plugin declares has the component that suits it."""

from __future__ import annotations

import asyncio
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

import zoo
from zoo.cli import scaffold
from zoo.playground.session import Session
from zoo.testing.site import Site

pytest.importorskip("gradio")

PLAYED: dict[str, dict[str, str]] = {  # model → what a person chooses with, beside the plain ones of `USUAL`
    "bert": {"mode": "dropdown", "steps": "textbox", "text": "textbox"},
    "ddpm": {"labels": "dropdown", "eta": "slider", "sampler": "dropdown"},
    "gat": {"nodes": "textbox"},
    "gpt": {"do_sample": "checkbox", "top_p": "slider", "prompt": "textbox", "top_k": "number"},
    "stylegan": {"labels": "dropdown", "psi": "slider", "noise": "dropdown"},
    "vae": {"mode": "dropdown", "data": "file", "ends": "number"},
    "vit": {"images": "file", "top_k": "number"},
}
STRANGERS = {  # plugins that are not zoo's, and that are not installed where the tests run
    "clip": {"images": "file", "labels": "textbox", "data": "textbox", "top_k": "number"},
    "mixer": {"prompt": "textbox", "length": "number", "temperature": "number"},
}


def components(model: zoo.Model, folder: Path) -> dict[str, dict[str, Any]]:
    """Return the components of a model's page by their id."""
    from zoo.playground.page import page

    async def make() -> list[dict[str, Any]]:  # outside a loop, gradio begins loops and leaves them open
        return page(Session(model), folder).config["components"]

    made = asyncio.run(make())
    return {one["props"]["elem_id"]: one for one in made if one["props"].get("elem_id")}


def put(site: Site, project: Path) -> None:
    """Install the plugin of a folder with a pyproject.toml."""
    about = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    points = about["entry-points"]["zoo"]
    for module in points.values():
        shutil.copytree(project / module, site.folder / module)
    site.install(about["name"], points)


@pytest.mark.turns(3)
@pytest.mark.parametrize("name", PLAYED)
def test_each_option_has_its_component(name: str, tmp_path: Path) -> None:
    has_its_components(name, PLAYED[name], tmp_path)


@pytest.mark.parametrize("name", STRANGERS)
def test_each_option_of_a_stranger_has_its_component(name: str, site: Site, tmp_path: Path) -> None:
    examples = Path(__file__).parents[2] / "examples" / "plugins"
    put(site, examples / name if (examples / name).exists() else scaffold.write(name, folder=tmp_path / name)[0])
    has_its_components(name, STRANGERS[name], tmp_path)


def has_its_components(name: str, expected: dict[str, str], tmp_path: Path) -> None:
    model = zoo.load(name, device="meta", lora={"one": 2, "two": 2})
    found = components(model, tmp_path)
    options = {option.name: option for option in Session(model).options or ()}
    assert {f"option-{one}" for one in options} == {one for one in found if one.startswith("option-")}
    assert {one: found[f"option-{one}"]["type"] for one in expected} == expected
    for one, option in options.items():
        props = found[f"option-{one}"]["props"]
        assert option.name.replace("_", " ") in props["label"]
        assert "None" not in f"{props['label']} {props.get('info', '')}"
        if option.choices:
            assert {choice for _, choice in props["choices"]} - {""} == set(option.choices)
    assert [found[f"adapter-{index}"]["props"]["label"] for index in range(2)] == ["adapter one", "adapter two"]
    assert [name for name, _ in found["beside"]["props"]["choices"]] == ["base", "one", "two"]


def test_a_page_without_adapters_compares_nothing(tmp_path: Path) -> None:
    found = components(zoo.load("gat", device="meta"), tmp_path)
    assert not found["compare"]["props"]["visible"]
    assert not found["beside"]["props"]["visible"]


@pytest.mark.parametrize(
    ("option", "typed", "said"),
    [
        (zoo.Option("ends", 2, "how many", low=2), 1.5, "ends: expected a whole number from 2, got 1.5"),
        (zoo.Option("ends", 2, "how many", low=2), None, "ends: expected a whole number from 2, got nothing"),
        (zoo.Option("psi", 1.0, "how much", low=0, high=2), 7, "psi: expected a number from 0 to 2, got 7"),
        (zoo.Option("psi", 1.0, "how much", low=0, high=2), None, "psi: expected a number from 0 to 2, got nothing"),
    ],
)
def test_what_gradio_would_bound_or_round_reaches_zoo(option: zoo.Option, typed: Any, said: str) -> None:
    from zoo.playground.widgets import field, value_of

    with pytest.raises(zoo.ZooError, match=said):
        option.check(value_of(option, field(option).preprocess(typed)))


def test_a_box_that_is_neither_yes_nor_no_has_three_choices() -> None:
    from zoo.playground.widgets import field, value_of

    option = zoo.Option("mask", None, "whether", type="bool")
    raw = [choice for _, choice in field(option).choices]
    assert [value_of(option, one) for one in raw] == [None, True, False]
    assert value_of(zoo.Option("mask", True, "whether"), False) is False


def test_errors_and_helps_speak_of_fields() -> None:
    from zoo.playground.widgets import helped, plain

    assert (
        plain("size: expected a number from 1, or None, got 'None'")
        == "size: expected a number from 1, or empty, got 'None'"
    )
    assert helped(zoo.Option("a", None, "all; None: own", "texts")).startswith("all; empty: own; a line ---")
