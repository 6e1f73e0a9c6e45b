"""Readers of upstream formats: start at :mod:`~qwenlong_core.data.sources.read`."""
