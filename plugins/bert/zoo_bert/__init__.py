"""Masked language models of transformers (BERT, RoBERTa, DistilBERT, ModernBERT, …), and text classifiers on them."""

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
    loss=".tasks",
    count=".tasks",
    batches=".tasks",
    evaluate=".tasks",
    describe=".facts",
    save=".model",
    forward_pass=".exporting",
)
