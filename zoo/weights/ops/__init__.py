"""Operations on managed weights, each with its own backward; `table.py` says which function gets which."""
