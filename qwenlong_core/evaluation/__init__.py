"""Evaluation: sample and score a checkpoint, and say how certain the scores are.

Reading order: :mod:`samples` (one line per sampled answer) -> :mod:`runner` (writes them and can resume) ->
:mod:`statistics` (intervals that respect shared documents) -> :mod:`scores` (from samples to numbers). What may
become champion is decided in :mod:`qwenlong_core.promotion`; :mod:`qwenlong_core.report` shows the results.
"""
