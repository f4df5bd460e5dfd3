"""Data: readers for what a user brings, and small data sets that need no download. Any plugin may use these helpers.

`stream.py` makes batches of tensors, `images.py` and `text.py` read what a user has, `letters.py` draws letters,
`labels.py` reads the classes that a user asks for, `pixels.py` converts images.

Imports: `zoo.plugin` (its request types) and below. Start with `stream.py`.
"""
