"""Adapters: their configuration, which weights they reach, attaching them, and the file format."""
