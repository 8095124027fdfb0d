"""Distributed tracing for Python with no code changes."""

__version__ = "0.1.0"
