"""PEFT's adapter format: `adapter_config.json` and the keys of `adapter_model.safetensors`.

Imports: as `zoo.formats`. Start with `config.py`; `write.py` and `read.py` are the two directions.
"""
