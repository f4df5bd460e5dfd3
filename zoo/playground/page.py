"""The page: fields for the options, sliders for the adapters, samples, a download."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError, one_line
from zoo.playground.session import BASE, MOST, SEEDS, Drawn, Session, picture, text

if TYPE_CHECKING:
    import gradio

FIRST = 4  # options that are seen at once; the others are folded away
STRONGEST = 2.0  # weight of an adapter
NUMBER = 4  # samples at first
_STYLE = "footer {display: none !important}"


def page(session: Session, folder: Path) -> gradio.Blocks:
    """Return the page of a session.

    Args:
        session: what draws.
        folder: where files for the download are written.

    Raises:
        ZooError: gradio is not installed.
    """
    gr = _gradio()
    from zoo.playground.widgets import field, is_slider, value_of

    options = session.options or ()
    name = session.model.entry.name
    with gr.Blocks(title=f"zoo play {name}", analytics_enabled=False) as blocks:
        gr.Markdown(f"## {name}\n{_lead(session)}")
        with gr.Row():
            with gr.Column(scale=1):
                shown = [field(option) for option in options[:FIRST]]
                if options[FIRST:]:
                    with gr.Accordion("More options", open=False):
                        shown += [field(option) for option in options[FIRST:]]
                with gr.Row():
                    number = gr.Slider(1, MOST, NUMBER, step=1, label="samples", elem_id="number")
                    seed = gr.Number(0, precision=0, minimum=0, maximum=SEEDS - 1, label="seed", elem_id="seed")
                weights = [
                    gr.Slider(-STRONGEST, STRONGEST, 1.0, step=0.05, label=f"adapter {one}", elem_id=f"adapter-{index}")
                    for index, one in enumerate(session.adapters)
                ]
                beside = gr.CheckboxGroup(
                    [BASE, *session.adapters],
                    value=[BASE] if session.adapters else [],
                    label="beside it, with the same seed",
                    visible=bool(session.adapters),
                    elem_id="beside",
                )
                with gr.Row():
                    draw = gr.Button("Draw", variant="primary", elem_id="draw")
                    anew = gr.Button("New seed", elem_id="anew")
            with gr.Column(scale=2):
                image = gr.Image(
                    type="pil",
                    format="png",
                    label="samples",
                    buttons=["download", "fullscreen"],
                    visible=False,
                    elem_id="picture",
                )
                words = gr.Textbox(label="samples", lines=8, visible=False, elem_id="words")
                files = gr.File(label="download", visible=False, elem_id="files")

        fields = [number, seed, beside, *weights, *shown]

        def drawn(number: float, seed: float | None, beside: list[str], *rest: Any) -> tuple[Any, Any, Any]:
            given, raw = rest[: len(weights)], rest[len(weights) :]
            try:
                values = {one.name: value_of(one, content) for one, content in zip(options, raw, strict=True)}
                chosen = dict(zip(session.adapters, map(float, given), strict=True))
                found = session.draw(int(number), int(seed or 0), values, chosen, beside or [])
            except ZooError as error:
                raise gr.Error(one_line(error), print_exception=False) from error
            seen, said = picture(found), text(found)
            return (
                gr.update(value=seen, visible=seen is not None),
                gr.update(value=said, visible=said is not None),
                gr.update(value=_written(found, folder), visible=True),
            )

        outputs = [image, words, files]
        draw.click(drawn, fields, outputs)
        anew.click(lambda: secrets.randbelow(SEEDS), None, seed).then(drawn, fields, outputs)
        sliders = [one for one, option in zip(shown, options, strict=True) if is_slider(option)]
        for slider in (*weights, *sliders):
            slider.release(drawn, fields, outputs)
    return blocks


def open_page(session: Session, ready: Callable[[str], None], *, port: int = 0, browser: bool = True) -> None:
    """Serve the page on this machine alone, until it is interrupted.

    Args:
        session: what draws.
        ready: called with the page's address.
        port: 0 takes a free one.
        browser: whether to open a browser there.

    Raises:
        ZooError: gradio is not installed, or the port is taken.
    """
    gr = _gradio()
    with tempfile.TemporaryDirectory(prefix="zoo-play-") as folder:
        blocks = page(session, Path(folder))
        try:
            _, address, _ = blocks.queue(default_concurrency_limit=1, max_size=16).launch(
                server_name="127.0.0.1",
                server_port=port or None,
                inbrowser=browser,
                prevent_thread_lock=True,
                quiet=True,
                show_error=True,
                theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
                css=_STYLE,
            )
        except OSError as error:
            raise ZooError(f"cannot serve the page on port {port}: {error}; give another --port, or 0") from error
        ready(str(address))
        blocks.block_thread()


def _lead(session: Session) -> str:
    facts = repr(session.model).removeprefix("zoo.Model(").removesuffix(")").split(", ", 1)[1]
    if session.options is None:
        return f"{facts}. Its plugin declares no options: samples and seed are all that can be chosen here."
    return f"{facts}."


def _written(drawn: list[Drawn], folder: Path) -> list[str]:
    """Write each way's samples into files, and return their paths."""
    return [
        str(one.samples.save(folder / f"{index}-{one.label.replace(' ', '-')}{one.samples.suffixes[0]}"))
        for index, one in enumerate(drawn)
    ]


def _gradio() -> Any:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nothing is sent anywhere
    try:
        import gradio
    except ImportError as error:
        raise ZooError("zoo play needs gradio: pip install 'adapter-zoo[play]'") from error
    return gradio
