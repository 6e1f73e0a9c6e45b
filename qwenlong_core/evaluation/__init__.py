"""Evaluation: sample and score a checkpoint, and say how certain the scores are.

Reading order:

    samples      one logged line per answer
    runner       the stage: asks, scores, logs, resumes
    answers      prompts to an engine or a server
    scoring      answers to scored samples, by rules and judge
    scores       samples to numbers, with the intervals of ``statistics``
    results      a finished evaluation on disk

:mod:`qwenlong_core.promotion` decides which model becomes champion; :mod:`qwenlong_core.report` shows the results.
Neither is imported here.
"""
