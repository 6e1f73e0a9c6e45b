"""Dynamic sampling (DAPO, section 3.2): groups without contrast are replaced by fresh draws.

If all completions of a group are right, or all are wrong, every advantage in it is zero. Such groups
are dropped and more prompts are drawn, round by round, until the batch is full of informative groups
or the rounds are used up. Training then continues with the groups it has. Informative groups beyond
the batch are the surplus: the next step uses them first, and drops those that it has no place for.
If tasks are balanced, each has its own places in the batch, and no other task takes them.

Only the accuracy decides whether a group is informative. With the length penalty included, a group
that is right throughout would look informative as soon as one answer is long.

Everything here is a pure function or explicit state. The same scores give the same result, so
several processes agree without exchanging messages.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar, get_args

import torch

from qwenlong_core.records import Example, Group, Score
from qwenlong_core.settings.training import DynamicSamplingSettings, Truncated

Reason = Literal["all_right", "all_wrong", "unscored", "truncated"]
"""Why a group is not informative."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Draw:
    """One prompt drawn from the stream."""

    row: int
    epoch: int
    """How often all rows have been drawn before this draw. Within an epoch no row is drawn twice."""


class Stream(Protocol):
    """Where prompts come from, and how the places of a batch are divided among tasks."""

    retired: set[int]
    """Rows that are skipped from now on."""

    @property
    def state(self) -> Any:
        """What decides the next draws, beside ``retired``, as JSON; it can be set."""

    @state.setter
    def state(self, value: Any) -> None: ...

    def task(self, example: Example) -> str:
        """The task that an example takes a place of."""

    def places(self, batch_size: int, step: int) -> dict[str, int]:
        """Places of each task in the batch of a step; together ``batch_size``."""

    def pools(self, batch_size: int) -> list[tuple[Sequence[int], int]]:
        """Rows that are drawn from together, and how many of them must never be retired."""

    def take_round(self, missing: Mapping[str, int], oversampling: float, processes: int) -> list[Draw]:
        """The draws of a round for the places that each task misses; a multiple of the processes."""


class PromptStream:
    """An endless sequence of row numbers, shuffled anew each epoch. All rows are one task.

    A seed and a position determine what comes next, so the stream resumes exactly. First draws and
    refills both come from it, so refilling favours no prompt.
    """

    def __init__(self, rows: int, seed: int, position: int = 0) -> None:
        self.rows, self.seed, self.position = rows, seed, position
        self.retired: set[int] = set()
        """Rows that are skipped from now on."""
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

    @property
    def state(self) -> int:
        """The position."""
        return self.position

    @state.setter
    def state(self, value: int) -> None:
        self.position = value

    def task(self, example: Example) -> str:
        """The one task."""
        return ""

    def places(self, batch_size: int, step: int) -> dict[str, int]:
        """All places are the one task's."""
        return {"": batch_size}

    def pools(self, batch_size: int) -> list[tuple[Sequence[int], int]]:
        """All rows; a batch of them stays."""
        return [(range(self.rows), batch_size)]

    def take_round(self, missing: Mapping[str, int], oversampling: float, processes: int) -> list[Draw]:
        """The next draws."""
        return self.take(round_size(sum(missing.values()), oversampling, processes))


def in_loss(group: Group, truncated: Truncated) -> list[bool]:
    """Which completions of a group count, both in the loss and in the group's baseline."""
    return [truncated == "keep" or completion.finish_reason != "length" for completion in group.completions]


def counted_scores(group: Group, truncated: Truncated) -> list[Score]:
    """Scores of the completions that count."""
    return [score for score, counts in zip(group.scores, in_loss(group, truncated)) if counts]


def uninformative_reason(scores: Sequence[Score], tolerance: float) -> Reason | None:
    """Why a group with these scores is not informative, or ``None`` if it is.

    Args:
        scores: Scores of the completions that count; none if every completion was truncated.
        tolerance: Accuracies that differ by no more than this count as equal.
    """
    if not scores:
        return "truncated"
    accuracies = [score.accuracy for score in scores]
    known = [accuracy for accuracy in accuracies if accuracy is not None]
    if len(known) < len(accuracies):
        # The whole group goes: only completions that the rules call wrong reach the judge, so leaving
        # out just the unscored ones would raise the group's baseline.
        return "unscored"
    if max(known) - min(known) > tolerance:
        return None
    return "all_right" if known[0] >= 0.5 else "all_wrong"


@dataclass
class RolloutBatch:
    """The groups of one step."""

    kept: list[Group] = field(default_factory=list)
    """Groups to train on, at most ``batch_size``: first the previous step's surplus, then in the order drawn."""
    from_last: int = 0
    """How many of ``kept`` come from the previous step's surplus."""
    stale: int = 0
    """Groups of the previous step's surplus that found no place in this step either."""
    surplus: list[Group] = field(default_factory=list)
    """Informative groups beyond the batch, for the next step."""
    dropped: list[tuple[Group, Reason]] = field(default_factory=list)
    """The groups that are not informative."""
    rounds: int = 0
    """Rounds of drawing that it took."""

    @property
    def groups(self) -> list[Group]:
        """Every group drawn in this step."""
        return [*self.kept[self.from_last :], *self.surplus, *(group for group, _ in self.dropped)]

    def counts(self) -> dict[str, int]:
        """Metrics: groups drawn, kept, dropped by reason, and the rounds."""
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
    """Draws of a round: the missing groups times ``oversampling``, rounded up to a multiple of the processes."""
    return -(-math.ceil(missing * oversampling) // processes) * processes


def fill_batch(
    stream: Stream,
    roll_out: Callable[[list[Draw]], list[Group]],
    batch_size: int,
    settings: DynamicSamplingSettings,
    *,
    truncated: Truncated = "keep",
    processes: int = 1,
    surplus: Sequence[Group] = (),
    step: int = 0,
) -> RolloutBatch:
    """Draw and score groups until ``batch_size`` are informative or the rounds are used up.

    Args:
        stream: Where prompts come from; it is advanced.
        roll_out: Samples and scores one group per draw. It must return the same groups on every process.
        batch_size: Groups wanted.
        settings: Rounds, oversampling and tolerance.
        truncated: Whether truncated completions count.
        processes: The draws of a round are a multiple of this number.
        surplus: The previous step's surplus, which is used first.
        step: Number of the step; a remainder of the places goes round the tasks with it.
    """
    missing = stream.places(batch_size, step)
    batch = RolloutBatch()
    for group in surplus:
        if _takes_place(missing, stream.task(group.example)):
            batch.kept.append(group)
    batch.from_last, batch.stale = len(batch.kept), len(surplus) - len(batch.kept)
    while any(missing.values()) and batch.rounds < settings.max_rounds:
        draws = stream.take_round(missing, settings.oversampling, processes)
        for group in roll_out(draws):
            reason = uninformative_reason(counted_scores(group, truncated), settings.tolerance)
            if reason is not None:
                batch.dropped.append((group, reason))
            elif _takes_place(missing, stream.task(group.example)):
                batch.kept.append(group)
            else:
                batch.surplus.append(group)
        batch.rounds += 1
    return batch


def _takes_place(missing: dict[str, int], task: str) -> bool:
    """Take one of the task's missing places, if there is one."""
    if not missing.get(task):
        return False
    missing[task] -= 1
    return True


def arrange(
    groups: Sequence[T],
    work: Sequence[float],
    documents: Sequence[Hashable],
    *,
    batch_size: int,
    mini_batches: int,
    processes: int,
    per_forward: int,
) -> list[list[T | None]]:
    """Spread groups evenly over the mini-batches, and within each mini-batch over the forwards of the processes.

    Each forward waits for the process with the most work, so the members of a mini-batch are dealt out by length:
    groups that run at the same time are neighbours. Groups on one document go into one forward, as far as there is
    room, where they share it. The gradient of a mini-batch is a sum over its members, so it stays the same.

    Args:
        groups: At most ``batch_size`` groups.
        work: Of each group, in any unit (:func:`.rows.packed_work`).
        documents: What each group's prompt begins with.
        batch_size: Slots in total, a multiple of ``mini_batches * processes * per_forward``.
        mini_batches: Optimizer steps per batch.
        processes: Number of processes. A whole group goes to one of them.
        per_forward: Groups in a forward of a process.

    Returns:
        The slots of each process, mini-batch by mini-batch and forward by forward; ``None`` is an empty slot. Every
        process has the same number of slots, since sharded training needs the same number of forwards on each.
    """
    slots: list[list[T | None]] = [[] for _ in range(processes)]
    forwards = batch_size // (mini_batches * processes * per_forward)
    for mini_batch in range(mini_batches):
        longest_first = sorted(range(mini_batch, len(groups), mini_batches), key=lambda i: -work[i])
        together = _together(longest_first, documents, per_forward, forwards * processes)
        placed = {i for cell in together for i in cell}
        rest = iter([i for i in longest_first if i not in placed])
        for first in range(0, len(together), processes):
            cells: list[list[int | None]] = [list(cell) for cell in together[first : first + processes]]
            for _ in range(per_forward):
                for cell in cells:
                    if len(cell) < per_forward:
                        cell.append(next(rest, None))
            for own, cell in zip(slots, cells):
                own += [None if i is None else groups[i] for i in cell]
    return slots


def _together(members: Sequence[int], documents: Sequence[Hashable], per_forward: int, cells: int) -> list[list[int]]:
    """The members that share a document, in at most ``cells`` forwards; those that find no room are left out.

    The forwards that run at the same time are neighbours.
    """
    on: dict[Hashable, list[int]] = {}
    for i in members:
        on.setdefault(documents[i], []).append(i)
    placed: list[list[int]] = [[] for _ in range(cells)]
    for several in on.values():
        for first in range(0, len(several), per_forward):
            unit = several[first : first + per_forward]
            emptiest = min(placed, key=len)
            if len(unit) > 1 and len(emptiest) + len(unit) <= per_forward:
                emptiest += unit
    return placed
