"""What one step trains on: groups as rows, one row a completion, in the order of the forwards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qwenlong_core.records import Group, Score
from qwenlong_core.settings.training import Truncated
from qwenlong_core.training.dynamic_sampling import RolloutBatch, in_loss
from qwenlong_core.training.surplus import OldLogprobs

Placed = tuple[Group, OldLogprobs | None]
"""A group to train on; with old log-probs if an earlier policy sampled it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One completion as the trainer sees it."""

    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]
    reward: float
    """NaN outside the loss: TRL leaves NaN out of a group's mean and standard deviation."""
    in_loss: bool
    logprobs: Sequence[float] | None = None
    """Log-probs of the completion's tokens as the engine reported them."""
    old_logprobs: Sequence[float] | None = None
    """Log-probs under the policy that sampled the completion, if that is not the current policy."""
    divisor: float = 1.0
    """What the reward's distance from its group's mean is still to be divided by, after TRL's own scaling."""


@dataclass(frozen=True, slots=True)
class StepBatch:
    """The batch of one step, as one process sees it."""

    number: int
    """Number of the step in its phase, counted from 1."""
    drawn: RolloutBatch
    """All groups of the step, the same on every process."""
    rows: list[Row]
    """The rows of this process, forward by forward."""
    informative_forwards: list[bool]
    """For each forward, whether any process has an informative group in it."""

    def update_learns(self, update: int, updates: int) -> bool:
        """Whether any process has an informative group in an optimizer step of this batch.

        Args:
            update: Number of the optimizer step within the batch, from 0.
            updates: Optimizer steps per batch.
        """
        forwards = len(self.informative_forwards) // updates
        return any(self.informative_forwards[update * forwards : (update + 1) * forwards])


def packed_work(prompt: int, completions: Sequence[int]) -> float:
    """Work of a forward over a group, in tokens through the linear layers; the arguments are numbers of tokens."""
    # Attention over this many tokens costs as much as the linear layers: 6 times the width, here that of the models of
    # 14 and 32 billion parameters. Smaller models reach it earlier; only the order of groups depends on it.
    balance = 6 * 5120
    pairs = prompt * prompt / 2 + sum(prompt * own + own * own / 2 for own in completions)
    return prompt + sum(completions) + pairs / balance


def empty_rows(group_size: int, filler: int) -> list[Row]:
    """The rows of an empty slot: one token each, outside the loss."""
    return [Row([filler], [filler], math.nan, in_loss=False, logprobs=[0.0])] * group_size


def rows_of(
    group: Group, prompt_ids: Sequence[int], truncated: Truncated, old: OldLogprobs | None = None, divisor: float = 1.0
) -> list[Row]:
    """A group's rows. A completion outside the loss has no part in the group's baseline either."""
    members = zip(group.completions, group.scores, in_loss(group, truncated), old or [None] * len(group.scores))
    return [
        Row(prompt_ids, c.token_ids, _value(score) if counts else math.nan, counts, c.logprobs, old_logprobs, divisor)
        for c, score, counts, old_logprobs in members
    ]


def _value(score: Score) -> float:
    assert score.value is not None, "an informative group has a value wherever it counts"
    return score.value
