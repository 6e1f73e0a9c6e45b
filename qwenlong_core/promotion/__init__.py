"""Promotion: may a challenger take the alias ``champion``, and has the champion got worse overnight?

Reading order: ``decision`` (the verdict) -> ``gate`` (the stage) -> ``conditions`` and ``overlap`` (what must hold) ->
``regression`` (the nights).
"""
