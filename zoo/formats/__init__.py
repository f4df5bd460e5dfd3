"""File formats: adapters as PEFT, diffusers, LyCORIS and kohya write them, and models in their library's own format.

`saved.py` saves and restores an adapter, `manifest.py` is `zoo.json` beside it, `peft/` is PEFT's format,
`detect.py` recognises the formats of other libraries.

Imports: `zoo.adapters`, `zoo.tuning` and below. Start with `saved.py`.
"""
