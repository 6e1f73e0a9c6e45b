"""Informative groups that a batch had no place for, on their way to the next step and through a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from qwenlong_core.records import Completion, Example, Group, Score

OldLogprobs = tuple[tuple[float, ...], ...]
"""A group's log-probs under the policy that sampled it, as the trainer computes them: at the sampling
temperature and over the whole vocabulary. The engine's own are taken after top-p and would not do."""


@dataclass(frozen=True, slots=True)
class SurplusGroup:
    """A group for the next step, when the policy will be another."""

    group: Group
    old_logprobs: OldLogprobs

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; numbers keep every bit. The example goes by its id."""
        return {
            "id": self.group.example.id,
            "completions": [asdict(completion) for completion in self.group.completions],
            "scores": [asdict(score) for score in self.group.scores],
            "old_logprobs": self.old_logprobs,
        }


def surplus_from_json(value: Mapping[str, Any], examples: Mapping[str, Example]) -> SurplusGroup:
    """The inverse of :meth:`SurplusGroup.to_json`."""
    group = Group(
        example=examples[value["id"]],
        completions=tuple(_completion(row) for row in value["completions"]),
        scores=tuple(Score(**row) for row in value["scores"]),
    )
    return SurplusGroup(group, tuple(tuple(row) for row in value["old_logprobs"]))


def _completion(row: Mapping[str, Any]) -> Completion:
    logprobs = row["logprobs"]
    sequences = {"token_ids": tuple(row["token_ids"]), "logprobs": None if logprobs is None else tuple(logprobs)}
    return Completion(**{**row, **sequences})
