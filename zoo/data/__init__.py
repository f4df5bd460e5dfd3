"""Data: readers for what a user brings, and small data sets that need no download. Any plugin may use these helpers.

Imports: `zoo.plugin` (its request types) and below. Start with `stream.py`.
"""
