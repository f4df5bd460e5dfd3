"""File formats: adapters of PEFT, diffusers, LyCORIS and kohya, and models in their library's native format.

`saved.py` saves and restores an adapter, `manifest.py` is `zoo.json` beside it, `peft/` is PEFT's format. `detect.py`
reads files of other tools, by the table of `spellings.py`: `paths.py` finds the layers, `lycoris.py` and
`differences.py` make PEFT's tensors of their parts. `export.py` writes such files (`diffusers.py`, `kohya.py`).
`native.py` saves a model, `trainer.py` writes the checkpoints of transformers' Trainer.

Imports: `zoo.adapters`, `zoo.tuning` and below. Start with `saved.py`.
"""
