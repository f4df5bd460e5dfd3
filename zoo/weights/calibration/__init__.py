"""Calibrated quantization: the codes of a quantized weight are chosen by what the weight is multiplied with.

`uses.py` says how an operation sees a weight as a matrix and what its inputs are, `observe.py` gathers their second
moments in a run of the module, `gptq.py` rounds by them into a format of `levels.py`. `norms.py` follows batch norms,
`passes.py` runs the module, `calibrate.py` does one weight after the other.

Imports: `zoo.torch_state`, `zoo.errors` and the rest of `zoo.weights`. Start with `calibrate.py`.
"""
