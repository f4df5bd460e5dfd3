"""Text that anybody may have written, read and matched within bounds: JSON, TOML, YAML, regular expressions.

The only place of zoo that parses such text; nothing in it is executed, and nothing takes longer, or more memory, than
the size of the text warrants. Imports: `errors`, no torch. Start with `json_text.py`.
"""
