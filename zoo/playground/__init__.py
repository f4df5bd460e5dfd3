"""A web page on which people draw samples: `zoo play`.

`session.py` draws and measures, `page.py` is what a browser shows: `widgets.py` makes its fields of what the plugin
declares of its options, `shown.py` puts what was drawn side by side.

Imports: `zoo.comparison` and below; gradio (extra `play`) when a page is made. Start with `session.py`.
"""
