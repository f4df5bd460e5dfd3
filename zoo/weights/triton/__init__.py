"""Fused kernels in Triton for CUDA: products with packed weights, unpacking, LoRA's small products.

Each computes what a few calls of torch and bitsandbytes compute, which are the reference and the fallback. `paths.py`
says which of the two is in force and why, `sizes.py` has every threshold and tile size, `ops.py` checks arguments,
launches, and registers the kernels as operators that `torch.compile` and fake tensors know. The other files are the
kernels. Nothing outside `ops.py` and the kernels imports triton, so `import zoo` and work on a CPU never do.

Imports: `zoo.errors`, `zoo.weights.kernels`. Start with `paths.py`.
"""
