"""Say when quantizing has left little of a weight, and what to do about it."""

from __future__ import annotations

import logging

from zoo.weights.calibration.outputs import Calibration
from zoo.weights.footprint import errors_of
from zoo.weights.walk import TiedGroup

LOST = 0.25  # relative error; nf4 has .09 on normally distributed values, and at most .18 on any of the embedded models
CHANGED = 0.5  # relative change of the outputs of a calibrated model

log = logging.getLogger("zoo")


def warn_of_losses(name: str, groups: list[TiedGroup], calibration: Calibration | None) -> None:
    """Log a warning if weights of a model have a relative error above `LOST`, or its outputs one above `CHANGED`.

    Weights that were rounded by data do not count: they move further, so that the outputs move less.

    Args:
        name: The model's, for the message.
        groups: Its weights, as they are stored now.
        calibration: What calibrating found; None without data.
    """
    if calibration is not None and calibration.error > CHANGED:
        log.warning(
            "%s: quantizing has changed the outputs by %.0f %% on the batches of calibrate=: give it more bits, "
            "bits=8 or an average such as bits='auto:5', or more batches",
            name,
            100 * calibration.error,
        )
    by_data = () if calibration is None else calibration.calibrated
    errors, _ = errors_of(groups)
    lost = {name: error for name, error in errors.items() if error > LOST and name not in by_data}
    if not lost:
        return
    worst = next(iter(lost))
    log.warning(
        "%s: quantizing left little of %d weights, most of all %s (relative error %.2f): store them finer, by name "
        "with bits={%r: 8, 'all': 4}, or all with bits=8",
        name,
        len(lost),
        worst,
        lost[worst],
        worst,
    )
