"""Groups as the trainer's rows: one a completion, with what the loss needs to know of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qwenlong_core.records import Group, Score
from qwenlong_core.settings.training import Truncated
from qwenlong_core.training.dynamic_sampling import in_loss
from qwenlong_core.training.surplus import OldLogprobs

Placed = tuple[Group, OldLogprobs | None]
"""A group to train on; its old log-probs where a policy before this one sampled it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One completion as the trainer sees it."""

    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]
    reward: float
    """NaN outside the loss, which TRL leaves out of means and standard deviations."""
    in_loss: bool
    logprobs: Sequence[float] | None = None
    """The engine's."""
    old_logprobs: Sequence[float] | None = None
    """The sampling policy's, where that is not the policy as it stands."""


def empty_rows(group_size: int, filler: int) -> list[Row]:
    """The rows of an empty slot: one token each, outside the loss."""
    return [Row([filler], [filler], math.nan, in_loss=False, logprobs=[0.0])] * group_size


def rows_of(group: Group, prompt_ids: Sequence[int], truncated: Truncated, old: OldLogprobs | None = None) -> list[Row]:
    """A group's rows. Those outside the loss have no part in the group's baseline either."""
    members = zip(group.completions, group.scores, in_loss(group, truncated), old or [None] * len(group.scores))
    return [
        Row(prompt_ids, c.token_ids, _value(score) if counts else math.nan, counts, c.logprobs, old_logprobs)
        for c, score, counts, old_logprobs in members
    ]


def _value(score: Score) -> float:
    assert score.value is not None, "an informative group has a value wherever it counts"
    return score.value
