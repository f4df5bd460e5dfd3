"""Files on disk: atomic writes, checkpoints read tensor by tensor, files that anybody may have written.

Imports: `zoo.catalog`. Start with `atomic.py` (writing) and `checkpoint.py` (reading).
"""
