"""A byte-level LSTM language model: torch's own `nn.LSTM`, whose weights are flat parameters of no layer class."""

import zoo

zoo.hooks(
    recognises=".facts",
    construct=".model",
    sample_kinds=".facts",
    sample_options=".facts",
    sample=".text",
    loss=".text",
    batches=".text",
    evaluate=".text",
    describe=".facts",
)
