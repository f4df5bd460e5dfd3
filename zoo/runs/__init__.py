"""A run as a file: what `run.toml` may hold, how it is read and written, and the report that a run leaves.

`schema.py` says what a run file holds (pydantic), `reading.py` reads and checks one, `toml_text.py` writes TOML,
`completed.py` makes the file of a run that takes place, `record.py` and `report.py` the page.

Imports: `zoo.tuning`, `zoo.plugin`, `zoo.reports` and below. Start with `schema.py`.
"""
