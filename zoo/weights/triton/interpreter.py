"""Triton's interpreter, which runs kernels on the CPU, for tests. Importing this imports no triton."""

from __future__ import annotations

import os

INTERPRETER = "TRITON_INTERPRET"  # environment variable of triton's own, read when triton is imported


def interpreting() -> bool:
    """Return whether kernels run in Triton's interpreter, on the CPU."""
    return os.environ.get(INTERPRETER, "0") == "1"
