"""PEFT's adapter format: `adapter_config.json` and the keys of `adapter_model.safetensors`.

`keys.py` has PEFT's names and shapes, `config.py` the configuration; `write.py` writes an adapter, `read.py` and
`places.py` read one.

Imports: as `zoo.formats`. Start with `config.py`.
"""
