"""Operations on managed weights, each with its own forward and backward; ``table.py`` says which function gets which."""
