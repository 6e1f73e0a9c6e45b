"""The console command: one file per command, and in :mod:`common` what they share.

Each file holds its command (the function with the options) and the work behind it. Whatever loads Prefect,
MLflow, torch or another heavy library is imported inside the function that needs it, for two reasons:
``qwenlong --help`` answers at once, and Prefect reads its settings on import, so
:func:`environment.use_project_defaults` must have run before.
"""
