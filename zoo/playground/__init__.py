"""A web page on which people draw samples: `zoo play`.

`session.py` draws, `page.py` is what a browser shows, made of what the plugin declares of its options.

Imports: `zoo.model` and below; gradio (extra `play`) when a page is made. Start with `session.py`.
"""
