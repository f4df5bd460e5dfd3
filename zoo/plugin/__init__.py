"""Plugins: the contract, loading them, and one typed function to call each hook.

`hookspecs.py` is the contract, `table.py` is how a plugin says where its hooks are, `manager.py` loads plugins,
`hooks.py` calls them, `builtin.py` has zoo's own implementations, which are called last.

Imports: `zoo.methods`, `zoo.storage`, `zoo.samples` and below. Start with `hookspecs.py`.
"""
