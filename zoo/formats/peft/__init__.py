"""PEFT's adapter format: `adapter_config.json` and the keys of `adapter_model.safetensors`.

`keys.py` has PEFT's names and shapes, `config.py` the configuration; `write.py` writes an adapter, `read.py` and
`places.py` read one. `renamed.py` brings the names of earlier releases of a library up to date, `joined.py` the factors
of weights that were joined or split since.

Imports: as `zoo.formats`. Start with `config.py`.
"""
