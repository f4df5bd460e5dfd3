"""Half-quadratic quantization for zoo: `zoo.load(name, bits=zoo.Quantization(bits=3, scheme="hqq"))`."""

import zoo

zoo.hooks(quantize=".codec")
