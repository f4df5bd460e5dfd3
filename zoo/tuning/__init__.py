"""Tuning: the loop, its checkpoints and what it shows while it runs."""
