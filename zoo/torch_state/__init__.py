"""Temporary changes of torch's global state: training mode, seeds, random number generators.

Imports: torch alone. Start with `modes.py`.
"""
