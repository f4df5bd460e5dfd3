"""Causal language models of transformers: GPT-2, Llama, Qwen, Mistral and whatever else its configuration can name."""

import zoo

zoo.hooks(
    recognises=".facts",
    construct=".model",
    checkpoint=".model",
    heads=".facts",
    sample_kinds=".options",
    sample_options=".options",
    sample=".tasks",
    embed=".embedding",
    engine=".continuing",
    loss=".tasks",
    count=".tasks",
    batches=".tasks",
    evaluate=".tasks",
    describe=".facts",
    save=".model",
    forward_pass=".exporting",
)
