"""Data that needs no download, and readers for the data a user brings. Any plugin may use these helpers."""
