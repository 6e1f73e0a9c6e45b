"""The report: what a person sees of a run.

Reading order: ``build`` (the stage and its sections) -> ``tables``, ``charts``, ``curves``, ``reader`` (the parts) ->
``page`` (style and template). ``model_card`` writes the README of an exported model.
"""
