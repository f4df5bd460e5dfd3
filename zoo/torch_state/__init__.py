"""Training modes and random numbers for a block of code, and turns of threads at a module.

Imports: `zoo.errors`. Start with `modes.py`.
"""
