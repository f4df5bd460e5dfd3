"""Causal language models of transformers: GPT-2, Llama, Qwen, Mistral and whatever else its configuration can name."""

import zoo

zoo.hooks(
    recognises=".facts",
    construct=".model",
    checkpoint=".model",
    sample=".text",
    loss=".text",
    batches=".text",
    evaluate=".text",
    describe=".facts",
    save=".model",
)
