"""Runs tests whose names come as lines, each by itself, in one process; answers each with a line of JSON.

pytest's collection has no part in it: no name here begins with `test`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys

import pytest


def answer() -> None:
    """Read names until there are no more; an answer is [exit code, the end of what pytest said]."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # whatever else writes there
        for line in sys.stdin:
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                code = pytest.main(["-q", "-p", "no:cacheprovider", line.strip()])
            print(json.dumps([int(code), said.getvalue()[-3000:]]), file=answers, flush=True)


if __name__ == "__main__":
    answer()
