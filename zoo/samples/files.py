"""Of what type the files of samples are."""

from __future__ import annotations

import mimetypes
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo.samples.samples import Samples

# What is the same on every machine; elsewhere Python asks the system.
_KNOWN = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".csv": "text/csv",
    ".wav": "audio/wav",
    ".mp4": "video/mp4",
}


def media_type(samples: Samples, suffix: str) -> str:
    """Return the media type of a file of these samples: its kind's, or the usual one, or that of any bytes."""
    own = samples.sample_kind.media_types.get(suffix) or _KNOWN.get(suffix)
    return own or mimetypes.guess_type(f"a{suffix}")[0] or "application/octet-stream"
