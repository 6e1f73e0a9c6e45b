"""The reward in verl, by its settings::

    custom_reward_function.path=examples/verl_reward.py custom_reward_function.name=compute_score

``reward_model.ground_truth`` of a row is a gold answer or a list of them; ``extra_info`` may have ``answer_type``,
``question``, ``choices`` and ``answer_scale``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qwenlong_core import reward

_OPTIONAL = ("answer_type", "question", "choices", "answer_scale")


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str | Sequence[str],
    extra_info: Mapping[str, Any] | None = None,
    **_: Any,
) -> dict[str, Any]:
    """``score`` is what verl trains on; it logs the others beside it."""
    row = {name: value for name, value in (extra_info or {}).items() if name in _OPTIONAL and value}
    found = reward(solution_str, ground_truth, **row)
    return {"score": float(found.value), "extracted": found.extracted or "", "reason": found.reason}
