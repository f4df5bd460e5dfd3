"""Managed weights: a parameter is replaced by its quantized data and its adapters' factors. The heart of zoo.

`parameters.py` finds parameters and replaces them, `managed_weight.py` holds what replaced one,
`lazy_weight.py` is the tensor-like object that the layer sees, `ops/` computes with it, `update.py` is what an
adapter does to a weight, `codecs.py` quantizes.

Imports: `zoo.errors`; it knows no architecture, no hook and no file format. Start with `managed_weight.py`.
"""
