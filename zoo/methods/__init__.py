"""Adapter methods: what LoRA, DoRA, PiSSA, LoHa, LoKr and full training do to one weight, and their settings.

One file for a method; `config.py` holds the settings that users write, `targets.py` selects weights by name.

Imports: `zoo.weights`; nothing here knows a model or a file. Start with `config.py` and `lora.py`.
"""
