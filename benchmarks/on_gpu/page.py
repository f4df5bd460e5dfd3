"""`benchmarks/gpu.md` from the JSON of a run."""

from __future__ import annotations

import json

from on_gpu.record import shown

HOW = """\
## How to make it

    python benchmarks/gpu.py --budget 8m --json gpu.json
    python benchmarks/gpu.py --page gpu.json > benchmarks/gpu.md

The JSON is written after every row, so that a run that was cut off has a page too. Where the time on a card is short,
run `python benchmarks/gpu.py --device cpu --quick` first, without one: it runs all parts at a tiny size. For a machine
without bitsandbytes or diffusers, put them in a folder of the checkout first, `pip install --target .gpu-site --no-deps
bitsandbytes diffusers`, and run everything in one command:

    export PYTHONPATH=$PWD/.gpu-site:$PWD:$(echo plugins/* | tr ' ' ':')
    python -m pytest -q -m gpu tests/weights/triton; python benchmarks/gpu.py --budget 8m --json gpu.json

`--only kernels` sweeps the sizes by which `zoo/weights/triton/sizes.py` should be set.
"""
NONE = "# On a GPU\n\nNone has been made: no part of zoo has run on a GPU yet.\n\n" + HOW


def page(text: str) -> str:
    """Return the page of a run, given its JSON."""
    found = json.loads(text)
    about, parts = found["about"], found["parts"]
    card = about.get("card", "a CPU: this checks the script, and measures nothing")
    lines = ["# On a GPU", "", f"On {card}, {about['date']}, by `python benchmarks/gpu.py`."]
    if about["quick"]:
        lines.append("A quick run at tiny sizes, which measures nothing.")
    lines += ["", *(f"- {key}: {shown(value)}" for key, value in about.items() if key not in ("card", "date")), ""]
    for part in parts.values():
        lines += [f"## {part['title']}", "", part["note"]]
        if part["ended"] != "done":
            lines += ["", f"This part did not come to its end: {part['ended']}."]
        lines += ["", *_table(part["rows"]), ""] if part["rows"] else [""]
    return "\n".join(lines) + "\n" + HOW


def _table(rows: list[dict[str, object]]) -> list[str]:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = (shown(row[key]).replace("|", "\\|").replace("\n", " ") if key in row else "" for key in columns)
        lines.append("| " + " | ".join(cells) + " |")
    return lines
