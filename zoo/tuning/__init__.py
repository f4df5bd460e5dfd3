"""Training: `Model.tune` and its loop on accelerate, checkpoints, resuming, and the progress it shows.

`verbs.py` has the methods of `zoo.Model`, `loop.py` the loop, `run.py` the state of a run, `settings.py` what it
depends on.

Imports: `zoo.plugin`, `zoo.storage`, `zoo.torch_state` and below; the loop trains anything with `module`, `loss` and
`batches`. Start with `loop.py`.
"""
