"""Graph attention networks: torch_geometric's `GAT` model, of GATConv or GATv2Conv layers."""

import zoo

zoo.hooks(
    recognises=".files",
    construct=".model",
    checkpoint=".model",
    heads=".files",
    quantize=".files",
    sample_kinds=".options",
    sample_options=".options",
    sample=".prediction",
    loss=".training",
    batches=".training",
    count=".training",
    evaluate=".training",
    describe=".files",
    save=".model",
    run_rows=".prediction",
    forward_pass=".exporting",
)
