"""Training modes and random numbers for a block of code, turns of threads at a module, and work that processes share.

Imports: `zoo.errors`. Start with `modes.py`.
"""
