"""Many requests to one model at once, each under its own adapters: `zoo serve`.

`work.py` has what goes in and comes out, `runtime.py` the queue and the thread that works on it, `http/` the server.

Imports: `zoo.model` and below. Start with `work.py`.
"""
