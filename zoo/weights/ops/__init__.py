"""Operations on managed weights, each with its own backward pass; `table.py` maps torch's functions to them."""
