"""Training: the loop on accelerate, its checkpoints, resuming, and the progress it shows.

Imports: `zoo.storage`, `zoo.torch_state` and below; it trains anything with `module`, `loss` and `batches`.
Start with `loop.py`.
"""
