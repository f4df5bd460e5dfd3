"""The parts of `gpu.py`: what each measures, in a file of its own. Start with `parts.py`."""
