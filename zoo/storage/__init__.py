"""Files on disk: atomic writes, checkpoints read tensor by tensor, and reading of untrusted files.

Imports: `zoo.catalog`. Start with `atomic.py` (writing) and `checkpoint.py` (reading).
"""
