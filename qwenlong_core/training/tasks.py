"""Tasks as QwenLong-L1.5 (arXiv 2512.12967) uses them: batches with equal shares, and a reward's deviation by task."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from statistics import stdev

from qwenlong_core.records import Example, Group
from qwenlong_core.settings.training import Task, Truncated
from qwenlong_core.training.dynamic_sampling import Draw, PromptStream, counted_scores, round_size


def task_of(example: Example, task: Task) -> str:
    """The task of an example."""
    return str(getattr(example, task))


def equal_places(tasks: Sequence[str], batch_size: int, step: int) -> dict[str, int]:
    """``batch_size`` divided among the tasks as equally as it goes.

    A remainder goes to the next tasks in turn, from step to step. So after as many steps as there are tasks, all have
    had the same number of places.
    """
    share, rest = divmod(batch_size, len(tasks))
    more = {(step * rest + i) % len(tasks) for i in range(rest)}
    return {task: share + (number in more) for number, task in enumerate(tasks)}


class BalancedStream:
    """A stream of prompts for each task, from which a batch takes equally.

    A task of few rows comes to their end earlier and begins them anew, in another order.

    Args:
        examples: The rows.
        task: What makes rows one task.
        batch_size: Places of a batch.
        seed: The phase's; every task has an order of its own.

    Raises:
        ValueError: a task has fewer rows than places in a batch.
    """

    def __init__(self, examples: Sequence[Example], task: Task, batch_size: int, seed: int) -> None:
        self._task = task
        self.retired: set[int] = set()
        self._rows: dict[str, list[int]] = {name: [] for name in sorted({task_of(e, task) for e in examples})}
        for row, example in enumerate(examples):
            self._rows[task_of(example, task)].append(row)
        self._most = -(-batch_size // len(self._rows))
        for name, rows in self._rows.items():
            if len(rows) < self._most:
                raise ValueError(
                    f"grpo.balance_tasks: {task} {name!r} has {len(rows)} row(s) in this phase, fewer than its "
                    f"{self._most} of grpo.batch_size={batch_size} prompts: add rows of it, leave it out, lower "
                    "batch_size or set balance_tasks=false"
                )
        self._streams = {name: PromptStream(len(rows), seed + i) for i, (name, rows) in enumerate(self._rows.items())}

    @property
    def state(self) -> dict[str, int]:
        """The position in each task's rows."""
        return {name: stream.position for name, stream in self._streams.items()}

    @state.setter
    def state(self, value: Mapping[str, int]) -> None:
        for name, stream in self._streams.items():
            stream.position = value[name]

    def task(self, example: Example) -> str:
        """The example's task."""
        return task_of(example, self._task)

    def places(self, batch_size: int, step: int) -> dict[str, int]:
        """Equal shares."""
        return equal_places(list(self._rows), batch_size, step)

    def pools(self, batch_size: int) -> list[tuple[Sequence[int], int]]:
        """The rows of each task; a batch's share of them stays."""
        return [(rows, self._most) for rows in self._rows.values()]

    def take_round(self, missing: Mapping[str, int], oversampling: float, processes: int) -> list[Draw]:
        """Draws for each task that misses places. The tasks take turns, so that processes get a like mix."""
        sizes = {name: math.ceil(places * oversampling) for name, places in missing.items() if places}
        total = sum(sizes.values())
        names = list(sizes)
        for i in range(round_size(total, 1.0, processes) - total):
            sizes[names[i % len(names)]] += 1
        drawn = [self._take(name, size) for name, size in sizes.items()]
        return [draw for draw in chain(*zip_longest(*drawn)) if draw is not None]

    def _take(self, name: str, count: int) -> list[Draw]:
        draws: list[Draw] = []
        while len(draws) < count:
            (draw,) = self._streams[name].take(1)
            row = self._rows[name][draw.row]
            if row not in self.retired:
                draws.append(Draw(row, draw.epoch))
        return draws


def task_deviations(groups: Sequence[Group], task: Task, truncated: Truncated) -> dict[str, float]:
    """The sample standard deviation of the rewards that count, by task, over all groups of a batch.

    Every process has all groups, so all find the same without a message.
    """
    rewards: dict[str, list[float]] = {}
    for group in groups:
        values = [score.value for score in counted_scores(group, truncated) if score.value is not None]
        rewards.setdefault(task_of(group.example, task), []).extend(values)
    return {name: stdev(values) for name, values in rewards.items()}


def kept_by_task(groups: Sequence[Group], task: Task) -> dict[str, int]:
    """Metrics: groups that are trained on, by task."""
    counts = Counter(task_of(group.example, task) for group in groups)
    # A source may have any name, and a tracker takes few signs in the name of a metric.
    return {"groups_kept_" + re.sub(r"[^\w.-]", "_", name): count for name, count in sorted(counts.items())}
