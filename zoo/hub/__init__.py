"""The Hugging Face Hub: models and adapters from it, adapters to it, through its own client.

`download.py` and `adapters.py` read, `push.py` writes, `verify.py` compares digests, `trouble.py` turns the
client's errors into ours.

Imports: `zoo.formats` and below. Start with `adapters.py` (reading) or `push.py` (writing).
"""
