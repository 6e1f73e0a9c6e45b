"""The report: what a person sees of a run.

Reading order: ``build`` (the stage and its sections) -> ``summary``, ``tables``, ``charts``, ``curves``, ``reader``,
``picture`` (the parts) -> ``page`` (the template), ``style``, ``script``. ``model_card`` writes the README of an
exported model.
"""
