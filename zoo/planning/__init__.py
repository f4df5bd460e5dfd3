"""What tuning a model takes, from its configuration alone: `zoo.plan`.

The module is built on `meta`, and its own loss is run on tensors without values (`hollow.py`), so that no weight is
read and nothing is computed. `estimate.py` puts parameters, bytes and operations together, `fits.py` looks for settings
that a card (`cards.py`) holds.

Imports: `zoo.loading` and below. Start with `plan.py`.
"""
