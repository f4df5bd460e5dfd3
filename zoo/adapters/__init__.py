"""The adapters of one model: attach, activate, merge, swap, combine, and batches that mix them.

`adapter_set.py` records which adapters a module has, `buffers.py` the persistent buffers of each. `unsaved.py` finds
what is in none; the other files each hold one operation on that set.

Imports: `zoo.plugin`, `zoo.methods` and below; never the `Model` class. Start with `adapter_set.py`.
"""
