"""The HTTP server of `zoo serve`, on FastAPI and uvicorn: what OpenAI's clients ask for, samples and classes.

`app.py` makes the application, `server.py` listens; `guard.py` looks at every request first. Needs the extra `serve`.

Imports: `zoo.serving` and below. Start with `app.py`.
"""
