"""Batch after batch of a phase: which groups each step trains on, and the state that resumes it exactly::

    Stream --draws--> Rollouts --scored groups--> fill_batch --kept groups--> arrange --> StepBatch
         ^                                               |      |                             (this process's rows)
         +------------- next round, if groups are missing+      +--surplus groups--> kept for the next step

It knows no trainer and no model. The one thing that needs the model, the log-probs of surplus groups,
is passed in as a function.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from accelerate.utils import gather_object

from qwenlong_core.records import Group
from qwenlong_core.settings.training import GRPOBase
from qwenlong_core.training.curriculum import UNSEEN, Difficulties, from_json, to_json, to_retire
from qwenlong_core.training.dynamic_sampling import Stream, arrange, fill_batch
from qwenlong_core.training.rollout import Rollouts
from qwenlong_core.training.rows import Placed, Row, StepBatch, empty_rows, packed_work, rows_of
from qwenlong_core.training.surplus import OldLogprobs, SurplusGroup, surplus_from_json
from qwenlong_core.training.tasks import task_deviations, task_of

logger = logging.getLogger(__name__)

PolicyLogprobs = Callable[[Sequence[int], Sequence[Sequence[int]]], OldLogprobs]
"""Log-probs of a prompt's completions, both given as token ids, under the policy as it stands."""


TRL_EPSILON = 1e-4
"""What TRL adds to a standard deviation that it divides by."""


class Batches:
    """The batches of a phase, drawn one at a time.

    Args:
        settings: Sizes, dynamic sampling, truncation, scaling by task, and retirement.
        rollouts: Samples and scores draws; it also says which process this is.
        stream: Where prompts come from.
        difficulties: What earlier phases recorded. Every group drawn is added to it.
        filler: Token id that fills empty slots.
        copies: Neighbouring processes that hold the same groups (``launch.sequence_parallel``).
    """

    def __init__(
        self,
        settings: GRPOBase,
        rollouts: Rollouts,
        stream: Stream,
        difficulties: Difficulties,
        filler: int,
        copies: int = 1,
    ) -> None:
        self.settings, self.rollouts, self.stream = settings, rollouts, stream
        self.difficulties, self.filler, self.copies = difficulties, filler, copies
        self.surplus: list[SurplusGroup] = []
        """Groups that the next batch uses first."""
        self.drawn = 0
        """Batches drawn in this phase, those before a resume included."""
        examples = rollouts.prompts.examples
        self._prompt_ids = {example.id: ids for example, ids in zip(examples, rollouts.prompts.token_ids)}
        self._hopeless_kept = 0
        self._retire()

    def next_batch(self, policy_logprobs: PolicyLogprobs) -> StepBatch:
        """Draw the next batch.

        Args:
            policy_logprobs: Called for surplus groups, equally often on every process.
        """
        settings, processes = self.settings, self.rollouts.processes
        holders, own = processes // self.copies, self.rollouts.rank // self.copies
        drawn = fill_batch(
            self.stream,
            self.rollouts,
            settings.batch_size,
            settings.dynamic_sampling,
            truncated=settings.truncated,
            processes=processes,
            surplus=[one.group for one in self.surplus],
            step=self.drawn,
        )
        for group in drawn.groups:
            self._record_difficulty(group)
        self._retire()
        placed = self._placed(drawn.kept)
        mini_batches = settings.batch_size // settings.mini_batch_size
        divisors = self._divisors(drawn.kept)
        slots = arrange(
            placed,
            [self._work(group) for group, _ in placed],
            [group.example.context for group, _ in placed],
            batch_size=settings.batch_size,
            mini_batches=mini_batches,
            processes=holders,
            per_forward=settings.micro_batch_size,
        )
        # Now and not in the next step: the policy that sampled these groups is about to be updated.
        kept_for_later = [] if settings.on_policy else drawn.surplus
        self.surplus = self._with_old_logprobs(kept_for_later, policy_logprobs)
        self.drawn += 1
        return StepBatch(
            number=self.drawn,
            drawn=drawn,
            rows=[row for slot in slots[own] for row in self._rows_of(slot, divisors)],
            informative_forwards=self._informative_forwards(slots),
        )

    def prompt_tokens(self, groups: Sequence[Group]) -> int:
        """Tokens of the groups' prompts, each group's prompt counted once."""
        return sum(len(self._prompt_ids[group.example.id]) for group in groups)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next batches depend on, as JSON; the same on every process."""
        return {
            "drawn": self.drawn,
            "stream": self.stream.state,
            "retired": sorted(self.stream.retired),
            "difficulty": to_json(self.difficulties),
            "surplus": [group.to_json() for group in self.surplus],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.drawn = state["drawn"]
        self.stream.state, self.stream.retired = state["stream"], set(state["retired"])
        self.difficulties = from_json(state["difficulty"])
        examples = {example.id: example for example in self.rollouts.prompts.examples}
        self.surplus = [surplus_from_json(group, examples) for group in state["surplus"]]

    def _placed(self, kept: Sequence[Group]) -> list[Placed]:
        """The groups of a batch, those of the last step with their log-probs.

        Tasks lie one after the other, since an update takes every n-th group: each then has its share of every task.
        """
        old = {id(one.group): one.old_logprobs for one in self.surplus}
        return sorted(((group, old.get(id(group))) for group in kept), key=lambda one: self.stream.task(one[0].example))

    def _with_old_logprobs(self, groups: Sequence[Group], policy_logprobs: PolicyLogprobs) -> list[SurplusGroup]:
        """The groups with the current policy's log-probs, which sampled them."""
        # Each process computes the same number, some groups twice if need be: with sharded weights a
        # forward needs every process. Processes with the same rows compute the same groups together.
        share = -(-len(groups) // (self.rollouts.processes // self.copies))
        first = share * (self.rollouts.rank // self.copies)
        own = [groups[number % len(groups)] for number in range(first, first + share)]
        computed = [policy_logprobs(self._prompt_ids[g.example.id], [c.token_ids for c in g.completions]) for g in own]
        counted_once = computed if self.rollouts.rank % self.copies == 0 else []
        logprobs: list[OldLogprobs] = gather_object(counted_once) if computed else []
        return [SurplusGroup(group, values) for group, values in zip(groups, logprobs)]

    def _work(self, group: Group) -> float:
        return packed_work(len(self._prompt_ids[group.example.id]), [len(c.token_ids) for c in group.completions])

    def _divisors(self, kept: Sequence[Group]) -> dict[str, float]:
        """What TRL leaves to divide advantages by, by task; empty with its own ways to scale."""
        settings = self.settings
        if settings.scale_rewards != "task":
            return {}
        deviations = task_deviations(kept, settings.task, settings.truncated)
        return {name: deviation + TRL_EPSILON for name, deviation in deviations.items()}

    def _rows_of(self, slot: Placed | None, divisors: Mapping[str, float]) -> list[Row]:
        if slot is None:
            return empty_rows(self.settings.group_size, self.filler)
        group, old_logprobs = slot
        divisor = divisors.get(task_of(group.example, self.settings.task), 1.0)
        return rows_of(group, self._prompt_ids[group.example.id], self.settings.truncated, old_logprobs, divisor)

    def _informative_forwards(self, slots: list[list[Placed | None]]) -> list[bool]:
        """For each forward of the batch, whether any process has a group in it."""
        groups = self.settings.micro_batch_size
        return [
            any(slot is not None for own in slots for slot in own[first : first + groups])
            for first in range(0, len(slots[0]), groups)
        ]

    def _record_difficulty(self, group: Group) -> None:
        accuracies = [score.accuracy for score in group.scores if score.accuracy is not None]
        if len(accuracies) == len(group.scores):  # a group with an unscored completion says nothing
            self.difficulties[group.example.id] = self.difficulties.get(group.example.id, UNSEEN).after(accuracies)

    def _retire(self) -> None:
        """Skip prompts from now on that were never right in ``retire_after_visits`` visits, but keep a batch."""
        examples, retired = self.rollouts.prompts.examples, self.stream.retired
        visits, batch_size = self.settings.curriculum.retire_after_visits, self.settings.batch_size
        hopeless_kept = 0
        for rows, keep in self.stream.pools(batch_size):
            gone = {place for place, row in enumerate(rows) if row in retired}
            found, stay = to_retire([examples[row] for row in rows], self.difficulties, visits, gone, keep)
            retired.update(rows[place] for place in found)
            hopeless_kept += stay
        if hopeless_kept > self._hopeless_kept:
            logger.warning(
                "%d prompt(s) without a right completion in %s visits stay in use: %d of %d are retired, and a step"
                " needs the last batch_size=%d; add rows or raise curriculum.retire_after_visits",
                hopeless_kept,
                visits,
                len(retired),
                len(examples),
                batch_size,
            )
        self._hopeless_kept = hopeless_kept
