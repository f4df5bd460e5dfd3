"""Names: which models and plugins there are, read from metadata and TOML files without importing any of them.

Imports: `zoo.errors`. Start with `entry.py`, then `registry.py`.
"""
