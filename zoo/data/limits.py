"""How much is read of data that anybody may have made. A variable of the environment sets each limit.

A small file can be a picture of billions of pixels or gigabytes of zeros. What exceeds a limit is refused before it is
unpacked or decoded, and the error names the variable.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import DataError


@dataclass(frozen=True)
class Limit:
    """A limit.

    Attributes:
        variable: of the environment, that sets another.
        default: where it does not.
        what: it limits, with the unit.
    """

    variable: str
    default: int
    what: str

    def value(self) -> int:
        """Return the limit that holds now.

        Raises:
            DataError: the variable is set and is no whole number.
        """
        given = os.environ.get(self.variable, "").strip()
        if not given:
            return self.default
        if not given.isdecimal() or len(given) > 18:
            raise DataError(f"{self.variable}: expected a whole number of {self.what}, got {given!r}")
        return int(given)

    def exceeded(self, found: float) -> str | None:
        """Return what to say of what was found; None where it is within the limit."""
        most = self.value()
        if found <= most:
            return None
        return f"{found:,.0f} {self.what}, more than {most:,}: if that is meant, set {self.variable}"


PIXELS = Limit("ZOO_MAX_PIXELS", 89_478_485, "pixels in a picture")  # Pillow's own
PICTURE = Limit("ZOO_MAX_PICTURE_BYTES", 256 * 2**20, "bytes in the file of a picture")
ENTRIES = Limit("ZOO_MAX_ENTRIES", 1_000_000, "entries in an archive")
LINE = Limit("ZOO_MAX_LINE_BYTES", 64 * 2**20, "characters in a line")
UNPACKED = Limit("ZOO_MAX_UNPACKED_BYTES", 32 * 2**30, "bytes when it is unpacked")
ALL = (PIXELS, PICTURE, ENTRIES, LINE, UNPACKED)

RATIO, FREE = 100, 256 * 2**20  # unless a variable says: so many times its size, and always so many bytes
OUTSIDE = "ZOO_DATA_FOLDERS"  # further folders in which the pictures that a table names may lie


def unpacked_limit(packed: int) -> Limit:
    """Return how many bytes something compressed may become: `UNPACKED`, and 100 times its size."""
    most = min(UNPACKED.default, max(FREE, RATIO * packed))
    return Limit(UNPACKED.variable, most, UNPACKED.what)


def other_folders() -> list[Path]:
    """Return the folders that `ZOO_DATA_FOLDERS` names."""
    named = os.environ.get(OUTSIDE, "").split(os.pathsep)
    return [Path(name).expanduser().resolve() for name in named if name.strip()]
