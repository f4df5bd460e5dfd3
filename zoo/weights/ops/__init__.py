"""Operations on managed weights, each with its own backward pass; `table.py` maps torch's functions to them.

Imports: `zoo.errors`, and no weight: a managed weight comes as an argument. Start with `linear.py`.
"""
