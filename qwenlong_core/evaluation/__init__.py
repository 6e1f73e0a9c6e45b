"""Evaluation: sample and score a checkpoint, say how sure the numbers are, decide, report.

Reading order: ``samples`` (one line per sampled answer) -> ``runner`` (writes them, resumably) ->
``statistics`` (intervals that respect shared documents) -> ``scores`` (samples to numbers) ->
``promotion`` (may a challenger become champion) -> ``report`` (one HTML page).
"""
