"""One field of the page for each option, and the option's value from what the field has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.bounded.json_text import json_value
from zoo.errors import ZooError

if TYPE_CHECKING:
    import gradio

    from zoo.plugin.options import Option

STEPS = 100  # of a slider of numbers
LONGEST_SLIDER = 1000  # whole numbers from its low to its high end; a field of digits beyond
BETWEEN = "---"  # a line of its own between several texts
_ANSWERS = ("yes", "no")
_NONE = re.compile(r"(?<!['\w])None(?!['\w])")
_DEFAULT = "default"  # what stands in a field that is empty


def field(option: Option) -> gradio.components.Component:
    """Return the component in which a person gives an option's value."""
    import gradio as gr

    label, info = option.name.replace("_", " "), helped(option)
    common: dict[str, Any] = {"label": label, "info": info, "interactive": True, "elem_id": f"option-{option.name}"}
    low = option.low if option.low is not None else option.above
    if option.type in ("int", "float"):
        whole = option.type == "int"
        if is_slider(option):
            step = 1 if whole else (option.high - low) / STEPS  # type: ignore[operator]
            least: Any = low + step if option.low is None else low  # type: ignore[operator]
            highest: Any = option.high
            return slider(least, highest, value=option.default, step=step, **common)
        if option.default is None:  # a field of digits cannot be empty
            return gr.Textbox(value="", placeholder=_DEFAULT, **common)
        # Neither ends nor rounding of gradio's: what cannot be is said in our words, with the option's help.
        return gr.Number(value=option.default, step=1 if whole else 0.1, **common)
    if option.type == "bool" and option.default is None:  # a box has no third state
        return gr.Dropdown(choices=[(_DEFAULT, ""), *_ANSWERS], value="", **common)
    if option.type == "bool":
        return gr.Checkbox(value=option.default, **common)
    if option.type == "choice":
        default = [(_DEFAULT, "")] if option.default is None else []
        return gr.Dropdown(choices=[*default, *option.choices], value=option.default or "", **common)
    if option.type == "classes" and option.choices:
        return gr.Dropdown(choices=list(option.choices), value=option.default or [], multiselect=True, **common)
    if option.type == "images":
        common.pop("info")
        common.pop("interactive")
        said = {**common, "label": f"{label}: {info}"}
        return gr.File(file_count="multiple", file_types=["image"], height=170, **said)
    lines = 2 if option.type in ("text", "texts", "messages") else 1
    empty = _DEFAULT if option.default is None else None
    return gr.Textbox(value=option.default or "", lines=lines, max_lines=20, placeholder=empty, **common)


def slider(low: float, high: float | None, **more: Any) -> gradio.Slider:
    """Return a slider whose box gives what was typed: what cannot be is said in our words, not in gradio's."""
    import gradio as gr

    made = gr.Slider(low, high, **more)
    made.preprocess = lambda payload: payload
    return made


def helped(option: Option) -> str:
    """Return an option's help as the page says it, and how several are given."""
    more = {
        "texts": f"; a line {BETWEEN} stands between two",
        "images": "; each gives one sample" if option.each else "",
        "numbers": "; several as [1, 2]",
    }
    return plain(option.help) + more.get(option.type, "")


def plain(text: str) -> str:
    """Return words about an option as the page says them: what is None elsewhere is a field that is empty."""
    return _NONE.sub("empty", text)


def whole(name: str, raw: float | None, low: int, high: int) -> int:
    """Return the whole number in a field.

    Raises:
        ZooError: there is none, or it is not between both ends.
    """
    if raw is None or raw % 1 != 0 or not low <= raw <= high:
        got = "nothing" if raw is None else f"{raw:g}"
        raise ZooError(f"{name}: expected a whole number from {low} to {high}, got {got}")
    return int(raw)


def is_slider(option: Option) -> bool:
    """Return whether an option has a default between two ends, near enough for a slider."""
    low = option.low if option.low is not None else option.above
    if option.default is None or low is None or option.high is None:
        return False
    return option.type == "float" or option.high - low <= LONGEST_SLIDER


def value_of(option: Option, raw: Any) -> Any:
    """Return what `sample` gets for a field's content; None for an empty one.

    Raises:
        ZooError: it cannot be read.
    """
    if option.type == "text" and raw == "" and option.default is not None:
        return ""  # the default stood there, and was taken away
    if raw is None and option.type in ("int", "float") and option.default is not None:
        raise ZooError(f"{option.name}: expected {option.expected}, got nothing; it is: {option.help}.")
    if raw is None or (isinstance(raw, str | list) and not raw):
        return None
    if option.type == "images":
        return [_opened(path) for path in (raw if isinstance(raw, list) else [raw])]
    if option.type in ("int", "float"):
        return _number(option, raw)
    if option.type == "texts":
        return _texts(option.name, raw)
    if option.type == "bool" and isinstance(raw, str):
        return raw == _ANSWERS[0]
    if option.type in ("numbers", "messages") or (option.type == "classes" and isinstance(raw, str)):
        return _read(raw)
    return raw


def _number(option: Option, raw: Any) -> int | float:
    try:
        number = float(raw)
    except ValueError:
        raise ZooError(f"{option.name}: expected {option.expected}, got {raw!r:.200}") from None
    return int(number) if option.type == "int" and number.is_integer() else number


def _texts(name: str, raw: str) -> str | list[str]:
    """Return one text as it is, or those between lines of `BETWEEN`.

    Raises:
        ZooError: there is nothing but such lines.
    """
    parts = re.split(rf"^{BETWEEN}[ \t]*$", raw, flags=re.MULTILINE)
    found = [part.removeprefix("\n").removesuffix("\n") for part in parts]
    if len(found) > 1 and not any(found):
        raise ZooError(f"{name}: expected texts with a line {BETWEEN} between them, got no text")
    return raw if len(found) == 1 else [part for part in found if part]


def _read(raw: str) -> Any:
    """Return a list or a number that is written as JSON, else the words themselves."""
    try:
        found = json_value(raw)
    except ValueError:
        return raw
    return found if isinstance(found, list | int) else raw


def _opened(path: str) -> Any:
    from zoo.data.pictures import open_image

    return open_image(Path(path))
