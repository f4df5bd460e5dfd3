"""The Hugging Face Hub: download models and adapters, push adapters, through its own client.

`listing.py` resolves a revision to a commit and its files, `download.py` fetches files into the cache, `adapters.py`
finds the adapter in a repository; `push.py` prepares a push with its model card (`card.py`, `markup.py`), and
`publish.py` makes the commit; `verify.py` compares digests, `limits.py` bounds what an answer may cost, `trouble.py`
tries again and translates the client's errors.

Imports: `zoo.formats` and below. Start with `adapters.py` (reading) or `push.py` (writing).
"""
