"""The quantizer `sketch`: `zoo.load(name, bits=zoo.Quantization(bits=3, scheme="sketch"))`."""

import zoo

zoo.hooks(quantize=".codec:pack")
