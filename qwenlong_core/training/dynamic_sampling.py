"""Dynamic sampling (DAPO, section 3.2): groups without contrast are replaced by fresh draws.

A group whose completions are all right, or all wrong, has zero advantages everywhere. Such groups
are dropped and further prompts drawn, round by round, until the batch is full of informative ones
or the rounds are used up; then training goes on with those there are. What decides is the accuracy
alone: with the length penalty in it, a group that is right throughout would look informative as
soon as one answer is long.

Everything here is a pure function or explicit state. Run on the same scores it gives the same
answer, which is how several processes agree without talking.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from qwenlong_core.records import Group, Score

Verdict = Literal["informative", "all_right", "all_wrong", "unscored"]


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
        self._generator = torch.Generator().manual_seed(seed)
        self._orders: list[list[int]] = []

    def _at(self, position: int) -> Draw:
        epoch, offset = divmod(position, self.rows)
        while len(self._orders) <= epoch:
            self._orders.append(torch.randperm(self.rows, generator=self._generator).tolist())
        return Draw(self._orders[epoch][offset], epoch)

    def take(self, count: int) -> list[Draw]:
        """The next ``count`` draws."""
        draws = [self._at(self.position + i) for i in range(count)]
        self.position += count
        return draws


def verdict(scores: Sequence[Score], tolerance: float) -> Verdict:
    """Whether a group teaches anything, by its accuracies alone.

    One unscored completion drops the group: only rule failures reach the judge, so leaving out just
    that completion would raise the group's baseline.
    """
    accuracies = [score.accuracy for score in scores]
    known = [accuracy for accuracy in accuracies if accuracy is not None]
    if len(known) < len(accuracies):
        return "unscored"
    if max(known) - min(known) > tolerance:
        return "informative"
    return "all_right" if known[0] >= 0.5 else "all_wrong"


@dataclass
class RolloutBatch:
    """What one step drew."""

    kept: list[Group] = field(default_factory=list)
    """Informative groups, at most the batch, in the order they were drawn."""
    dropped: list[tuple[Group, str]] = field(default_factory=list)
    """The others with the reason: a verdict, or ``surplus`` where the batch was full already."""
    rounds: int = 0

    @property
    def groups(self) -> list[Group]:
        """Every group drawn."""
        return [*self.kept, *(group for group, _ in self.dropped)]

    def counts(self) -> dict[str, int]:
        """Metrics: drawn, kept and dropped groups by reason, and rounds."""
        reasons = Counter(reason for _, reason in self.dropped)
        return {
            "groups_drawn": len(self.kept) + len(self.dropped),
            "groups_kept": len(self.kept),
            **{f"groups_{name}": reasons[name] for name in ("all_right", "all_wrong", "unscored", "surplus")},
            "rounds": self.rounds,
        }


def round_size(missing: int, processes: int) -> int:
    """Draws of a round: what is missing, rounded up so that every process has as many."""
    return -(-missing // processes) * processes


def fill_batch(
    stream: PromptStream,
    roll_out: Callable[[list[Draw]], list[Group]],
    batch_size: int,
    max_rounds: int,
    tolerance: float,
    processes: int = 1,
) -> RolloutBatch:
    """Draw and score groups until ``batch_size`` are informative or the rounds are used up.

    Args:
        stream: Where prompts come from; it is advanced.
        roll_out: Samples and scores one group per draw; on several processes it must return the
            same groups everywhere.
        batch_size: Groups wanted.
        max_rounds: 1 never refills.
        tolerance: Accuracies closer than this count as equal.
        processes: A round's draws are a multiple of it.
    """
    batch = RolloutBatch()
    while len(batch.kept) < batch_size and batch.rounds < max_rounds:
        draws = stream.take(round_size(batch_size - len(batch.kept), processes))
        for group in roll_out(draws):
            reason: str = verdict(group.scores, tolerance)
            if reason == "informative" and len(batch.kept) < batch_size:
                batch.kept.append(group)
            else:
                batch.dropped.append((group, "surplus" if reason == "informative" else reason))
        batch.rounds += 1
    return batch


def arrange(groups: Sequence[Group], batch_size: int, minis: int, processes: int) -> list[list[Group | None]]:
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
    slots: list[list[Group | None]] = [[] for _ in range(processes)]
    for mini in range(minis):
        members: list[Group | None] = list(groups[mini::minis])
        members += [None] * (per_mini - len(members))
        for process in range(processes):
            slots[process] += members[process::processes]
    return slots
