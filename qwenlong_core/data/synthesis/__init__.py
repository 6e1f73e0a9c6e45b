"""Documents written by program: start at :mod:`~qwenlong_core.data.synthesis.generate`."""
