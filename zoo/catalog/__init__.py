"""The catalogue of models and plugins, read from metadata and TOML files without importing any plugin.

Imports: `zoo.errors`, and the schemes' names from `zoo.weights.scheme`. Start with `entry.py`, then `registry.py`.
"""
