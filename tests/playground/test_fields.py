"""The fields of `zoo play`, without a browser: each option that a plugin declares has the component that suits it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import zoo
from zoo.playground.session import Session

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


def components(model: zoo.Model, folder: Path) -> dict[str, dict[str, Any]]:
    """Return the components of a model's page by their id."""
    from zoo.playground.page import page

    async def make() -> list[dict[str, Any]]:  # outside a loop, gradio begins loops and leaves them open
        return page(Session(model), folder).config["components"]

    made = asyncio.run(make())
    return {one["props"]["elem_id"]: one for one in made if one["props"].get("elem_id")}


@pytest.mark.turns(3)
@pytest.mark.parametrize("name", PLAYED)
def test_each_option_has_its_component(name: str, tmp_path: Path) -> None:
    model = zoo.load(name, device="meta", lora={"one": 2, "two": 2})
    found = components(model, tmp_path)
    options = {option.name: option for option in Session(model).options or ()}
    assert {f"option-{one}" for one in options} == {one for one in found if one.startswith("option-")}
    assert {one: found[f"option-{one}"]["type"] for one in PLAYED[name]} == PLAYED[name]
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


def test_what_gradio_would_bound_or_round_reaches_zoo() -> None:
    from zoo.playground.widgets import field, value_of

    option = zoo.Option("ends", 2, "how many", low=2)
    given = field(option).preprocess(1.5)
    with pytest.raises(zoo.ZooError, match="ends: expected a whole number from 2, got"):
        option.check(value_of(option, given))
