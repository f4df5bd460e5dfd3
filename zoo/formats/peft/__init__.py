"""PEFT's adapter format: `adapter_config.json` and the keys of `adapter_model.safetensors`.

Start with `config.py`; `write.py` and `read.py` are the two directions.
"""
