"""Loading a model by name: `zoo.load` and `zoo.wrap`.

`resolve.py` finds the entry and the files of a name, `stream.py` fills a module from its checkpoint, `load.py` puts
both together.

Imports: `zoo.model` and below. Start with `load.py`.
"""
