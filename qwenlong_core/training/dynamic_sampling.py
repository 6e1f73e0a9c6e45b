"""Dynamic sampling (DAPO, section 3.2): groups without contrast are replaced by fresh draws.

A group whose completions are all right, or all wrong, has zero advantages everywhere. Such groups
are dropped and further prompts drawn, round by round, until the batch is full of informative ones
or the rounds are used up; then training goes on with those there are. Informative groups over the batch
are used first in the next step, and dropped if that one has no place for them either. What decides is the accuracy
alone: with the length penalty in it, a group that is right throughout would look informative as
soon as one answer is long.

Everything here is a pure function or explicit state. Run on the same scores it gives the same
answer, which is how several processes agree without talking.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar, get_args

import torch

from qwenlong_core.records import Group, Score
from qwenlong_core.settings.training import DynamicSamplingSettings, Truncated

Reason = Literal["all_right", "all_wrong", "unscored", "truncated"]
"""Why a group teaches nothing."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Draw:
    """One prompt drawn from the stream."""

    row: int
    epoch: int
    """How many times the rows had all been drawn before: within an epoch no row comes twice."""


class PromptStream:
    """An endless sequence of rows, shuffled anew each epoch, given by a seed and a position.

    First draws and refills come from this one stream, so no prompt is favoured by being refilled.
    """

    def __init__(self, rows: int, seed: int, position: int = 0) -> None:
        self.rows, self.seed, self.position = rows, seed, position
        self.retired: set[int] = set()
        """Rows passed over from here on."""
        self._generator = torch.Generator().manual_seed(seed)
        self._orders: list[list[int]] = []

    def _at(self, position: int) -> Draw:
        epoch, offset = divmod(position, self.rows)
        while len(self._orders) <= epoch:
            self._orders.append(torch.randperm(self.rows, generator=self._generator).tolist())
        return Draw(self._orders[epoch][offset], epoch)

    def take(self, count: int) -> list[Draw]:
        """The next ``count`` draws."""
        draws: list[Draw] = []
        while len(draws) < count:
            draw = self._at(self.position)
            self.position += 1
            if draw.row not in self.retired:
                draws.append(draw)
        return draws


def in_loss(group: Group, truncated: Truncated) -> list[bool]:
    """Which completions count, in the loss as in the group's baseline."""
    return [truncated == "keep" or completion.finish_reason != "length" for completion in group.completions]


def counted_scores(group: Group, truncated: Truncated) -> list[Score]:
    """Scores of the completions that count."""
    return [score for score, counts in zip(group.scores, in_loss(group, truncated)) if counts]


def why_not(scores: Sequence[Score], tolerance: float) -> Reason | None:
    """Why a group with these scores teaches nothing, by its accuracies alone; ``None``: it does teach.

    One unscored completion drops the group: only rule failures reach the judge, so leaving out just
    that completion would raise the group's baseline. No score at all means that every completion was
    truncated.
    """
    if not scores:
        return "truncated"
    accuracies = [score.accuracy for score in scores]
    known = [accuracy for accuracy in accuracies if accuracy is not None]
    if len(known) < len(accuracies):
        return "unscored"
    if max(known) - min(known) > tolerance:
        return None
    return "all_right" if known[0] >= 0.5 else "all_wrong"


@dataclass
class RolloutBatch:
    """What one step drew."""

    kept: list[Group] = field(default_factory=list)
    """Groups to train on, at most the batch: first those of the step before, then as they were drawn."""
    from_last: int = 0
    """How many of ``kept`` the step before drew."""
    stale: int = 0
    """Groups of the step before that found no place in this one either."""
    surplus: list[Group] = field(default_factory=list)
    """Informative groups over the batch, for the next step."""
    dropped: list[tuple[Group, Reason]] = field(default_factory=list)
    """The groups that teach nothing."""
    rounds: int = 0

    @property
    def groups(self) -> list[Group]:
        """Every group drawn in this step."""
        return [*self.kept[self.from_last :], *self.surplus, *(group for group, _ in self.dropped)]

    def counts(self) -> dict[str, int]:
        """Metrics: drawn, kept and dropped groups by reason, and rounds."""
        reasons = Counter(reason for _, reason in self.dropped)
        return {
            "groups_drawn": len(self.groups),
            "groups_kept": len(self.kept),
            **{f"groups_{name}": reasons[name] for name in get_args(Reason)},
            "groups_surplus": len(self.surplus),
            "kept_from_last_step": self.from_last,
            "stale": self.stale,
            "rounds": self.rounds,
        }


def round_size(missing: int, oversampling: float, processes: int) -> int:
    """Draws of a round: what is missing, oversampled, rounded up so that every process has as many."""
    return -(-math.ceil(missing * oversampling) // processes) * processes


def fill_batch(
    stream: PromptStream,
    roll_out: Callable[[list[Draw]], list[Group]],
    batch_size: int,
    settings: DynamicSamplingSettings,
    truncated: Truncated = "keep",
    processes: int = 1,
    left: Sequence[Group] = (),
) -> RolloutBatch:
    """Draw and score groups until ``batch_size`` are informative or the rounds are used up.

    Args:
        stream: Where prompts come from; it is advanced.
        roll_out: Samples and scores one group per draw; on several processes it must return the
            same groups everywhere.
        batch_size: Groups wanted.
        settings: Rounds, oversampling and tolerance.
        truncated: Whether truncated completions count.
        processes: A round's draws are a multiple of it.
        left: The surplus of the step before, which is used first.
    """
    kept = list(left[:batch_size])
    batch = RolloutBatch(kept, from_last=len(kept), stale=len(left) - len(kept))
    while len(batch.kept) < batch_size and batch.rounds < settings.max_rounds:
        draws = stream.take(round_size(batch_size - len(batch.kept), settings.oversampling, processes))
        for group in roll_out(draws):
            reason = why_not(counted_scores(group, truncated), settings.tolerance)
            if reason is not None:
                batch.dropped.append((group, reason))
            elif len(batch.kept) < batch_size:
                batch.kept.append(group)
            else:
                batch.surplus.append(group)
        batch.rounds += 1
    return batch


def arrange(groups: Sequence[T], batch_size: int, minis: int, processes: int) -> list[list[T | None]]:
    """Place groups on processes, spread evenly over the mini-batches and within each over processes.

    Args:
        groups: At most ``batch_size``.
        batch_size: Slots in all.
        minis: Mini-batches (optimizer steps) the batch is cut into.
        processes: Processes; a group lives on one of them.

    Returns:
        For each process its slots, mini-batch by mini-batch; ``None`` is an empty slot. Every process
        has as many slots, since sharded training needs as many forwards on each.
    """
    per_mini = batch_size // minis
    slots: list[list[T | None]] = [[] for _ in range(processes)]
    for mini in range(minis):
        members: list[T | None] = list(groups[mini::minis])
        members += [None] * (per_mini - len(members))
        for process in range(processes):
            slots[process] += members[process::processes]
    return slots
