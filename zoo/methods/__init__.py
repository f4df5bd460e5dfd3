"""Adapter methods: what LoRA, DoRA, PiSSA, LoHa, LoKr and full training do to one weight, and their configurations.

Each method has a file, and `rows.py` trains chosen rows of a table; `kinds.py` is the table of the methods, `config.py`
has the configurations that users write, and `targets.py` selects weights by name.

Imports: `zoo.weights`; nothing here knows a model or a file. Start with `config.py` and `lora.py`.
"""
