"""Managed weights: a parameter is replaced by its quantized data and its adapters' factors. The heart of zoo.

`walk.py` finds a module's parameters, `parameters.py` replaces them, `managed_weight.py` is the replacement,
`lazy_weight.py` the tensor-like object that the layer sees. `ops/` computes with it, `update.py` is the base class of
what an adapter does to a weight, `codecs.py` quantizes, `products.py` says how a quantized weight multiplies,
`state_dicts.py` refuses state dicts that do not fit.

Imports: `zoo.errors`; it knows no architecture, no hook and no file format. Start with `managed_weight.py`.
"""
