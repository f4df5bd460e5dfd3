"""The version of the distribution `adapter-zoo`."""

__version__ = "0.2.0"
