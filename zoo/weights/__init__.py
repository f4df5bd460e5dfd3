"""Managed weights: stores, stand-ins, their operations and quantization. Knows no architecture and no hook."""
