"""The sampling options that a request may give: a schema from what the architecture declares, pictures decoded.

A request names no file on this machine: options that do are refused, and pictures come as base64.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from zoo.data.pictures import open_image, opened
from zoo.errors import ZooError, did_you_mean, shown
from zoo.plugin.options import Option
from zoo.serving.http.abilities import Abilities
from zoo.serving.http.errors import Refusal
from zoo.serving.http.guard import hold

if TYPE_CHECKING:
    from PIL.Image import Image
    from starlette.requests import Request

PIXELS = 2**24  # in all pictures of one request
_Number = int | str
_JSON: dict[str, Any] = {
    "int": int,
    "float": float,
    "bool": bool,
    "text": str,
    "texts": str | list[str],
    "messages": str | list[Any],
    "classes": _Number | list[Any],
    "numbers": _Number | list[Any],
    "images": str | list[str],
}


def schema(abilities: Abilities) -> type[BaseModel]:
    """Return the model of the options that a request may give, each with its help, range and default."""
    fields: dict[str, Any] = {name: _field(option) for name, option in abilities.options.items()}
    config = ConfigDict(extra="allow", protected_namespaces=())  # the others are refused by name, in `taken`
    return create_model("Options", __config__=config, **fields)


def _field(option: Option) -> tuple[Any, Any]:
    if option.type == "choice":
        kind: Any = Literal[option.choices]
    else:
        kind = _JSON[option.type]
    said = option.help + (" (base64, or a data: URL)" if option.type == "images" else "")
    ranges = {"ge": option.low, "le": option.high, "gt": option.above}
    if option.type in ("int", "float"):
        given: dict[str, Any] = {name: end for name, end in ranges.items() if end is not None}
        kind = Annotated[kind, Field(strict=True, **given)]
    if option.default is None:
        kind = kind | None
    return kind, Field(default=option.default, description=said)


def taken(
    abilities: Abilities, given: Mapping[str, Any], request: Request | None = None, *, where: str = "options"
) -> dict[str, Any]:
    """Return options as the plugin takes them: declared ones, checked, pictures decoded.

    Args:
        abilities: of the model.
        given: what the request says.
        request: which holds the pictures.
        where: how an error names the argument.

    Raises:
        Refusal: an option is not declared, names files on this machine, or its value cannot be.
    """
    found = {}
    for name, value in given.items():
        param = f"{where}.{name}" if where else name
        if name in abilities.refused:
            message = f"{param}: it names data on the server's own machine, which no request may"
            raise Refusal(400, message, param=param, code="unsafe_option")
        option = abilities.options.get(name)
        if option is None:
            known = ", ".join(abilities.options) or "none"
            what = "the options are" if abilities.declares else "this architecture declares no options; there are"
            near = did_you_mean(name, abilities.options)
            raise Refusal(400, f"{param}: no such option; {what} {known}.{near}", param=param, code="unknown_option")
        try:
            _check_form(option, value)
            value = _pictures(value, request) if option.type == "images" and value is not None else value
            found[name] = option.check(value)
        except ZooError as error:
            raise Refusal(400, str(error), param=param, code="invalid_value") from None
    return found


def count(abilities: Abilities, n: int, options: Mapping[str, Any]) -> int:
    """Return how many samples a request asks for: `n` of each text or conversation, or one of each picture."""
    most = 1
    for name, value in options.items():
        if not isinstance(value, list) or name not in abilities.options:
            continue
        kind = abilities.options[name].type
        if kind in ("texts", "images") or (kind == "messages" and all(isinstance(one, list) for one in value)):
            most = max(most, len(value))
    return n * most


def _check_form(option: Option, value: Any) -> None:
    """Raise ZooError for what no plugin should get: the plugins look closer."""
    if value is None:
        return
    flat = value if isinstance(value, list) else [value]
    words = {"texts": (str,), "images": (str,), "classes": (str, int, float), "numbers": (str, int)}
    wanted = words.get(option.type)
    if option.type in ("classes", "numbers") and flat and all(isinstance(one, list) for one in flat):
        flat = [part for one in flat for part in one]
    if wanted and (not flat or not all(isinstance(one, wanted) and not isinstance(one, bool) for one in flat)):
        raise ZooError(f"{option.name}: expected {option.expected}, got {shown(value)}")


def _pictures(value: str | list[str], request: Request | None) -> list[Image]:
    """Return pictures from base64.

    Raises:
        ZooError: one is none, or together they have too many pixels.
    """
    raws = [_bytes(text, number) for number, text in enumerate([value] if isinstance(value, str) else value)]
    pixels = 0
    for number, raw in enumerate(raws):
        try:
            with opened(raw) as image:  # its header alone
                pixels += image.width * image.height
        except ZooError:
            raise
        except Exception:  # Pillow's readers raise whatever a broken file makes them
            raise ZooError(f"picture {number}: expected a PNG, JPEG or the like in base64, got another file") from None
    if pixels > PIXELS:
        raise ZooError(f"expected pictures of at most {PIXELS:,} pixels in one request, got {pixels:,}")
    if request is not None:
        hold(request, 4 * pixels)
    return [open_image(raw) for raw in raws]


def _bytes(text: str, number: int) -> bytes:
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise ZooError(f"picture {number}: expected a data: URL in base64")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ZooError(
            f"picture {number}: expected a file's bytes in base64: files on the server and addresses are not read"
        ) from None
