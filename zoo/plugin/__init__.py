"""Plugins: the contract, finding and loading them, and one typed function to call each hook.

`hookspecs.py` is the contract, `manager.py` loads plugins, `hooks.py` calls them, `builtin.py` holds zoo's own
implementations, which answer last.

Imports: `zoo.methods`, `zoo.storage`, `zoo.samples` and below. Start with `hookspecs.py`.
"""
