"""Weights that another library quantized, as the base of managed weights: the library's packed data, unchanged.

`weight.py` is what is known of one such weight, `table.py` the forms that zoo reads, each recognised by what it is;
`layers.py` states the layers' forward passes in terms of `layer.weight`, and `adopt.py` puts managed weights in place
and gives the library's own back. No library is imported: its objects are there already.

Imports: `zoo.weights`'s other modules. Start with `weight.py` and `table.py`.
"""
