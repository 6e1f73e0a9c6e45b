"""What became of the questions, the requests and the traces of a distillation, and what the teacher cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from qwenlong_core.settings.distill import TeacherSettings

Outcome = Literal[
    "kept",
    "surplus",
    "truncated",
    "no_answer",
    "wrong",
    "undecided",
    "open_thinking",
    "too_short",
    "too_long",
    "repetitive",
]
"""What became of a trace, each by the first reason that applies:

- ``truncated``: the teacher was cut off; ``no_answer``: none is committed; ``wrong``: by the rule; ``undecided``: the
  rule cannot tell, so a judge would have to
- ``open_thinking``: without ``</think>``, though the policy's chat template opens ``<think>``
- ``too_short``, ``too_long``: in the policy's tokens, alone or with the prompt; ``repetitive``
- ``surplus``: good, but a copy of another one, or longer than the ``keep_per_question`` that are kept
"""
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclass(slots=True)
class DistillCounts:
    """``asked == answered + failed``, and the outcomes add up to the traces of all questions."""

    questions: int = 0
    solved: int = 0
    """Questions with a trace that is kept."""
    asked: int = 0
    """Requests to the teacher, those of earlier runs too; or traces of the files that match a row."""
    failed: int = 0
    """Requests without a completion; see ``last_error``."""
    outcomes: Counter[str] = field(default_factory=Counter)
    records: int = 0
    """Records of the trace files."""
    unmatched: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """As the teacher counted them, in all answers that are used."""
    cost: float = 0.0
    """Their price at the settings' prices, whichever run paid."""
    without_usage: int = 0
    """Answers whose tokens the teacher did not count; they are missing from the cost."""
    last_error: str = ""

    @property
    def kept(self) -> int:
        """Traces that are kept."""
        return self.outcomes["kept"]

    def add_outcomes(self, outcomes: Sequence[Outcome]) -> None:
        """Count what became of the traces of one question."""
        self.outcomes.update(outcomes)
        self.solved += "kept" in outcomes

    def add_usage(self, prompt: int | None, completion: int | None, teacher: TeacherSettings) -> None:
        """Count the tokens of an answer, and their price."""
        self.without_usage += prompt is None or completion is None
        self.prompt_tokens += prompt or 0
        self.completion_tokens += completion or 0
        self.cost = (
            self.prompt_tokens * teacher.price_per_million_prompt_tokens
            + self.completion_tokens * teacher.price_per_million_completion_tokens
        ) / 1e6

    def numbers(self) -> dict[str, Any]:
        """All counts that are numbers."""
        return {
            "questions": self.questions,
            "solved": self.solved,
            "asked": self.asked,
            "answered": self.asked - self.failed,
            "failed": self.failed,
            **{name: self.outcomes[name] for name in OUTCOMES},
            "records": self.records,
            "unmatched": self.unmatched,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "without_usage": self.without_usage,
            "cost": self.cost,
        }

    def to_dict(self) -> dict[str, Any]:
        """As JSON, with the last error."""
        return {**self.numbers(), "last_error": self.last_error}

    def words(self) -> str:
        """All counts that are not 0, in a sentence."""
        return in_words(self.to_dict())


def in_words(counts: dict[str, Any]) -> str:
    """The counts of a ``summary.json`` in a sentence; outcomes that did not occur are left out."""
    others = [f"{name.replace('_', ' ')} {counts[name]:,}" for name in OUTCOMES[1:] if counts[name]]
    parts = [
        f"{counts['kept']:,} traces kept, for {counts['solved']:,} of {counts['questions']:,} questions",
        f"{counts['answered']:,} of {counts['asked']:,} answers" if counts["asked"] else "",
        f"{counts['failed']:,} requests failed" if counts["failed"] else "",
        ", ".join(others),
        f"{counts['unmatched']:,} of {counts['records']:,} records match no row" if counts["unmatched"] else "",
        _price(counts),
    ]
    return "; ".join(filter(None, parts))


def _price(counts: dict[str, Any]) -> str:
    if not counts["prompt_tokens"] and not counts["completion_tokens"]:
        return ""
    tokens = f"{counts['prompt_tokens']:,} prompt and {counts['completion_tokens']:,} completion tokens"
    missing = f" (not counting {counts['without_usage']:,} answers without usage)" if counts["without_usage"] else ""
    return f"{tokens}, price {counts['cost']:,.2f}{missing}"
