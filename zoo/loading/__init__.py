"""Loading: from a name to a model. `zoo.load` and `zoo.wrap`.

`resolve.py` finds out what a name stands for, `stream.py` fills a module from its checkpoint, `load.py` puts both
together.

Imports: `zoo.model` and below. Start with `load.py`.
"""
