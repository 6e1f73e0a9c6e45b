"""Surplus: informative groups that found no place in their batch, kept for the next step and in checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from qwenlong_core.records import Completion, Example, Group, Score

OldLogprobs = tuple[tuple[float, ...], ...]
"""A group's log-probs under the policy that sampled it, one tuple per completion, as the trainer computes
them: at the sampling temperature and over the whole vocabulary. The engine's log-probs cannot be used
instead, since they are taken after top-p."""


@dataclass(frozen=True, slots=True)
class SurplusGroup:
    """A group for the next step. By then the policy has been updated, so its log-probs are kept with it."""

    group: Group
    old_logprobs: OldLogprobs

    def to_json(self) -> dict[str, Any]:
        """Plain JSON in which numbers keep every bit. The example is stored by its id."""
        return {
            "id": self.group.example.id,
            "completions": [asdict(completion) for completion in self.group.completions],
            "scores": [asdict(score) for score in self.group.scores],
            "old_logprobs": self.old_logprobs,
        }


def surplus_from_json(value: Mapping[str, Any], examples: Mapping[str, Example]) -> SurplusGroup:
    """The inverse of :meth:`SurplusGroup.to_json`; ``examples`` are the phase's rows by id."""
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
