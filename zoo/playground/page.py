"""The page: fields for the options, sliders for the adapters, samples, a comparison, a download."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError, one_line
from zoo.playground.session import BASE, MOST, SEEDS, Session
from zoo.playground.widgets import plain

if TYPE_CHECKING:
    import gradio

FIRST = 5  # options that are seen at once; where there are more than one beside, those are folded away
STRONGEST = 2.0  # weight of an adapter
NUMBER = 4  # samples at first
KEPT = 3600  # seconds for which files can be downloaded
_LONGEST = 1000  # characters of an error


def page(session: Session, folder: Path) -> gradio.Blocks:
    """Return the page of a session.

    What is chosen is the browser's own: every call gets all of it, so that two browsers do not mix.

    Args:
        session: what draws.
        folder: where files for the download are written.

    Raises:
        ZooError: gradio is not installed.
    """
    gr = _gradio()
    from zoo.playground import shown
    from zoo.playground.widgets import field, is_slider, slider, value_of, whole

    options = session.options or ()
    first = len(options) if len(options) <= FIRST + 1 else FIRST
    adapters = session.adapters
    name = session.model.entry.name
    with gr.Blocks(title=f"zoo play {name}", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as blocks:
        gr.Markdown(f"## {name}\n{_lead(session)}")
        with gr.Row():
            with gr.Column(scale=1, elem_id="chosen"):
                fields = [field(option) for option in options[:first]]
                if options[first:]:
                    with gr.Accordion("More options", open=False):
                        fields += [field(option) for option in options[first:]]
                number = slider(1, MOST, value=NUMBER, step=1, label="samples (n)", elem_id="number")
                seed = gr.Number(0, label="seed", info="equal seeds draw equal samples", elem_id="seed")
                weights = [
                    slider(-STRONGEST, STRONGEST, value=1.0, step=0.05, label=f"adapter {one}", elem_id=f"adapter-{at}")
                    for at, one in enumerate(adapters)
                ]
                beside = gr.CheckboxGroup(
                    [BASE, *adapters],
                    value=[BASE] if adapters else [],
                    label="beside it, from the same seed",
                    visible=bool(adapters),
                    elem_id="beside",
                )
                with gr.Row(elem_id="buttons"):
                    draw = gr.Button("Draw", variant="primary", elem_id="draw", min_width=60)
                    anew = gr.Button("New seed", elem_id="anew", min_width=60)
                    compare = gr.Button("Compare all", elem_id="compare", min_width=60, visible=bool(adapters))
            with gr.Column(scale=2):
                samples = gr.HTML(shown.note("“Draw” shows samples here."), elem_id="samples", apply_default_css=False)
                apart = gr.HTML(visible=False, elem_id="apart", apply_default_css=False)
                download = gr.File(label="download", visible=False, interactive=False, elem_id="files")
                with gr.Accordion("Quality on data", open=False, elem_id="quality"):
                    data = gr.Textbox(label="data", info=_DATA, placeholder="its own data", elem_id="data")
                    measure = gr.Button("Measure", elem_id="measure")
                    figures = gr.HTML(shown.note(_MEASURED), elem_id="figures", apply_default_css=False)

        def drawn(
            told: Any = gr.Progress(),  # noqa: B008 - where gradio looks for it
            number: Any = NUMBER,
            seed: Any = 0,
            beside: Any = (),
            *rest: Any,
        ) -> tuple[Any, Any, Any]:
            given, raw = rest[: len(weights)], rest[len(weights) :]
            with _said(gr):
                values = {one.name: value_of(one, content) for one, content in zip(options, raw, strict=True)}
                begun = whole("seed", seed, 0, SEEDS - 1)
                count = whole("samples", number, 1, MOST)
                found = session.draw(count, begun, values, _weights(adapters, given), beside or [], _told(told))
                paths = shown.written(found, begun, _fresh(folder))
            table = shown.apart_table(found)
            return (
                shown.side_by_side(found),
                gr.update(value=table or "", visible=table is not None),
                gr.update(value=paths, visible=True),
            )

        def measured(
            told: Any = gr.Progress(),  # noqa: B008
            source: str = "",
            beside: Any = (),
            *given: Any,
        ) -> str:
            with _said(gr):
                chosen = _weights(adapters, given)
                return shown.measured(session.measure(chosen, beside or [], source.strip() or None, _told(told)))

        inputs, outputs = [number, seed, beside, *weights, *fields], [samples, apart, download]
        every: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
        here: dict[str, Any] = {**every, "show_progress_on": samples}
        for button in (draw, anew, compare):
            button.click(None, js=_SEEN)
        draw.click(drawn, inputs, outputs, **here)
        anew.click(lambda: secrets.randbelow(SEEDS), None, seed).then(drawn, inputs, outputs, **here)
        compare.click(lambda: [BASE, *adapters], None, beside).then(drawn, inputs, outputs, **here)
        measure.click(measured, [data, beside, *weights], figures, **every)
        sliders = [one for one, option in zip(fields, options, strict=True) if is_slider(option)]
        for moved in (*weights, *sliders):
            moved.release(drawn, inputs, outputs, trigger_mode="always_last", **here)
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
            _, address, _ = blocks.queue(max_size=16).launch(
                server_name="127.0.0.1",
                server_port=port or None,
                inbrowser=browser,
                prevent_thread_lock=True,
                quiet=True,
                show_error=True,
                theme=_theme(gr),
                css=files("zoo.playground").joinpath("style.css").read_text("utf-8"),
            )
        except OSError as error:
            raise ZooError(f"cannot serve the page on port {port}: {error}; give another --port, or 0") from error
        ready(str(address))
        blocks.block_thread()


_DATA = "a name such as letters:serif, a folder or a file; empty: what the model's plugin has"
# Where the fields stand above the samples, a button leads to what it draws.
_SEEN = """() => {
  const samples = document.querySelector("#samples"), top = samples.getBoundingClientRect().top;
  if (top < 0 || top > innerHeight - 240) samples.scrollIntoView({ behavior: "smooth", block: "start" });
}"""
_MEASURED = "“Measure” evaluates the ways that are chosen beside the samples, each on the same examples."


def _theme(gr: Any) -> Any:
    """Return a theme whose fonts are on every machine, and whose helps can be read."""
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    return theme.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
    )


def _lead(session: Session) -> str:
    model = session.model
    words = [f"`{type(model.module).__name__}`"]
    words += [f"{model.scheme.argument} bit"] if model.scheme else []
    said = f"{', '.join(words)}, on {model.device}, computes in {str(model.dtype).removeprefix('torch.')}."
    if session.options is None:
        return f"{said} Its plugin declares no options: samples and seed are all that can be chosen here."
    return said


@contextmanager
def _said(gr: Any) -> Iterator[None]:
    """Say on the page what is wrong, as text: the page would take what is quoted in it for HTML."""
    try:
        yield
    except ZooError as error:
        said = escape(plain(one_line(error, _LONGEST)))
        raise gr.Error(said, duration=30, title="This cannot be", print_exception=False) from error


def _weights(adapters: Sequence[str], given: Sequence[float | None]) -> dict[str, float]:
    """Return each adapter's weight.

    Raises:
        ZooError: one is not between the slider's ends.
    """
    for name, weight in zip(adapters, given, strict=True):
        if weight is None or not -STRONGEST <= weight <= STRONGEST:
            got = "nothing" if weight is None else f"{weight:g}"
            raise ZooError(f"adapter {name}: expected a number from {-STRONGEST:g} to {STRONGEST:g}, got {got}")
    return dict(zip(adapters, map(float, given), strict=True))  # type: ignore[arg-type]


def _told(progress: Any) -> Callable[[str, int, int], None]:
    """Return what says on the page which way it is at; of one there is only the time that it takes."""

    def tell(label: str, number: int, total: int) -> None:
        if total > 1:
            progress((number, total), desc=label, unit="ways")

    return tell


def _fresh(folder: Path) -> Path:
    """Return a new folder in this one, for the files of one draw; those of long ago are deleted."""
    for old in folder.iterdir():
        if time.time() - old.stat().st_mtime > KEPT:
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(dir=folder))


def _gradio() -> Any:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nothing is sent anywhere
    try:
        import gradio
    except ImportError as error:
        raise ZooError("zoo play needs gradio: pip install 'adapter-zoo[play]'") from error
    return gradio
