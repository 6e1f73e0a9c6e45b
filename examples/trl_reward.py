"""The reward in TRL's GRPOTrainer.

The data set has the columns ``prompt`` and ``answers`` (a list of gold answers, any of which is right), and may have
``answer_type``, ``question`` and ``choices``. TRL passes columns to the reward function by their names::

    GRPOTrainer(model=..., reward_funcs=docqa_reward, train_dataset=rows, args=GRPOConfig(...))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qwenlong_core import reward

_OPTIONAL = ("answer_type", "question", "choices", "answer_scale")


def docqa_reward(completions: Sequence[Any], answers: Sequence[Sequence[str]], **columns: Any) -> list[float]:
    """1.0 or 0.0 for each completion, which is a text, or a list of messages of which the last counts."""
    given = [name for name in _OPTIONAL if name in columns]
    rows = [{name: columns[name][place] for name in given if columns[name][place]} for place in range(len(answers))]
    return [
        float(reward(completion if isinstance(completion, str) else completion[-1]["content"], golds, **row).value)
        for completion, golds, row in zip(completions, answers, rows, strict=True)
    ]
