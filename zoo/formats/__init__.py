"""File formats: adapters of PEFT, diffusers, LyCORIS and kohya, and models in their library's native format.

`saved.py` saves and restores an adapter, `manifest.py` is `zoo.json` beside it, `peft/` is PEFT's format,
`detect.py` recognises the formats of other libraries, each read by a file of its own. `native.py` saves a model,
`trainer.py` writes the checkpoints of transformers' Trainer.

Imports: `zoo.adapters`, `zoo.tuning` and below. Start with `saved.py`.
"""
