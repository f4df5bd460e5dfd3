"""Helpers for libraries that several plugins build on; each module imports its library when it is used.

Imports: `zoo.storage` and below. Start with `transformers.py`.
"""
