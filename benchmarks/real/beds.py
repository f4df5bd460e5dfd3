"""All beds, by name."""

from __future__ import annotations

import crystals
import faces
import networks
import tones
import voices
from bed import Bed

BEDS: tuple[Bed, ...] = (*networks.BEDS, *voices.BEDS, *tones.BEDS, *crystals.BEDS, *faces.BEDS)


def find(name: str) -> Bed:
    """Return the bed of a name.

    Raises:
        KeyError: there is none.
    """
    for bed in BEDS:
        if bed.name == name:
            return bed
    raise KeyError(f"no bed {name!r}: expected one of {', '.join(bed.name for bed in BEDS)}")
