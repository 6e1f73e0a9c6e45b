"""Lengths and pass rates of the rows to come: from a probe where one stands, else stated assumptions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwenlong_core.settings.tree import Settings

COMPLETION_SHARE = 0.4
"""Of the limit: DeepSeek-R1 distills answer DocQA-RL in about 4K of 10K tokens."""
INFORMATIVE_SHARE = 0.625
"""Groups with right and wrong answers: 1.6 draws a group."""
PASS_RATE = 0.5
JUDGE_SECONDS = 2.0
"""One request."""
SPECULATION = 1.8
"""Tokens that a decoding step of n-gram speculation accepts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """The rows of a phase as the plan sees them; lengths in tokens."""

    prompt: float
    completion: float
    longest_prompt: int
    longest_completion: int
    informative: float
    """Share of drawn groups that give a gradient."""
    passed: float
    """Share of completions that the rule accepts; the judge is asked about the others."""
    source: str


def _assumed(settings: Settings, index: int) -> Rows:
    phases = settings.grpo.phases
    below = phases[index - 2].max_prompt_tokens if index > 1 else 0
    phase = phases[index - 1]
    return Rows(
        prompt=(below + phase.max_prompt_tokens) / 2,
        completion=COMPLETION_SHARE * phase.max_completion_tokens,
        longest_prompt=phase.max_prompt_tokens,
        longest_completion=phase.max_completion_tokens,
        informative=INFORMATIVE_SHARE,
        passed=PASS_RATE,
        source="assumed",
    )


def rows_of(settings: Settings, index: int, probe: Mapping[str, Any] | None = None) -> Rows:
    """The rows of phase ``index``, counted from 1.

    Args:
        settings: The profile.
        index: The phase.
        probe: Content of a ``probe.json``. The phase's limits stay the longest row: a probe sees only some rows.
    """
    rows = _assumed(settings, index)
    found = (probe or {}).get("phases", {}).get(str(index))
    if found is None:
        return rows
    return Rows(
        prompt=found["prompt_tokens"],
        completion=max(found["completion_tokens"], 1.0),
        longest_prompt=rows.longest_prompt,
        longest_completion=rows.longest_completion,
        informative=found["informative_share"],
        passed=found["pass_rate"],
        source=f"probe of {found['rows']} rows",
    )


def groups_drawn(settings: Settings, informative: float) -> float:
    """Groups that dynamic sampling draws for a batch: until it is full, or all its rounds are used up."""
    batch, rounds = settings.grpo.batch_size, settings.grpo.dynamic_sampling.max_rounds
    return min(batch / informative, batch * rounds) if informative else float(batch * rounds)
