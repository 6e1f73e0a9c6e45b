"""The records that every part of the project works with; read this file first.

One question's life, in the records below::

    Example        a document, a question, its gold answers          (data)
      -> Completion  one sampled answer of the policy                  (generation)
      -> Score       what that answer earned, and why                  (rewards)
      -> Group       the G completions of one example with their scores (training, evaluation)

Worked example::

    example = Example(
        id="report-0001", source="generated", domain="math", answer_type="number",
        context="Net sales were $120 million in 2021 and $150 million in 2022 ...",
        question="By what percentage did net sales grow from 2021 to 2022?",
        answers=("25%",), document_id="report-0001",
    )
    completion = Completion(
        text="<think>150 / 120 = 1.25</think>\\n\\nTherefore, the answer is 25%.",
        token_ids=(...), finish_reason="stop",
    )
    score = Score(value=1.0, rule=1.0, extracted="25%", status="scored", reason="equals gold '25%'")

Rows are frozen dataclasses without logic, so that every module can load them without torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, TypeAdapter

from qwenlong_core.plugged import entries

Domain = Literal["math", "logical", "multihop", "reading"]
ANSWER_TYPES = ("number", "choice", "span", "yes_no", "unanswerable", "published")
"""``published``: the whole answer counts, by the scorer that the row's benchmark published
(:mod:`~qwenlong_core.rewards.published`). For evaluation alone: such a scorer is no reward."""
FinishReason = Literal["stop", "length"]
Status = Literal["scored", "no_answer", "truncated", "unscored", "error"]
"""``unscored``: the judge gave no verdict. ``error``: the engine gave no answer. Neither says anything about the
model."""

DOMAINS: tuple[str, ...] = get_args(Domain)


def answer_types() -> tuple[str, ...]:
    """The names of all answer types: the tree's own, then those of other distributions."""
    return (*ANSWER_TYPES, *entries("answer_types", ANSWER_TYPES))


def _known(answer_type: str) -> str:
    if answer_type not in answer_types():
        raise ValueError(f"not one of {', '.join(answer_types())}")
    return answer_type


AnswerType = Annotated[str, AfterValidator(_known)]
"""One of :func:`answer_types`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A question about a document, with its gold answers."""

    id: str
    source: str
    """Where the row came from: a source name such as ``generated`` or ``musique``."""
    domain: Domain
    answer_type: AnswerType
    context: str
    """The whole document (or documents) the question is about."""
    question: str
    answers: tuple[str, ...]
    """Gold answers; any one of them is right. For ``choice`` this is one letter, ``("B",)``."""
    choices: tuple[str, ...] = ()
    """Texts of the options A, B, C, ... ; empty unless ``answer_type == "choice"``."""
    document_id: str = ""
    """Examples with the same id share their document: splits and statistics cluster on it."""
    num_tokens: int | None = None
    """Tokens of the whole rendered prompt under the policy's chat template; set by prepare."""
    solution: str | None = None
    """A worked completion (reasoning and answer form) to imitate in SFT, where one is known."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Source-specific facts that no code depends on, such as licence, evidence depth, hops."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready dict; the inverse of :func:`example_from_dict`."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One sampled answer."""

    text: str
    """Decoded text without special tokens, including any ``<think>`` part."""
    token_ids: tuple[int, ...]
    """Sampled tokens including the end-of-sequence token if one was sampled."""
    finish_reason: FinishReason
    """``length``: generation was cut at the completion limit."""
    logprobs: tuple[float, ...] | None = None
    """Log-probability of each sampled token under the sampling distribution, if the engine gave it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """What a completion earned, with its parts and the reason in words."""

    value: float | None
    """``max(rule, judge) + length_penalty + bonus``; ``None`` when there is none: see :attr:`accuracy`."""
    rule: float | None = None
    """1.0 or 0.0 by the rule of the answer type, of a published scorer any share between; ``None`` without a rule."""
    judge: float | None = None
    """1.0 or 0.0 by the judge; ``None`` when the judge was not asked or gave no verdict."""
    length_penalty: float = 0.0
    """In [-1, 0]; see :func:`qwenlong_core.rewards.length_penalty`."""
    bonus: float = 0.0
    """What a right answer earned in training for showing its evidence (:mod:`qwenlong_core.rewards.bonus`)."""
    extracted: str | None = None
    """The committed answer that was compared, or ``None`` when there was none."""
    status: Status = "scored"
    reason: str = ""

    @property
    def accuracy(self) -> float | None:
        """``max(rule, judge)``, the part dynamic sampling filters on; ``None`` if unscored or an error."""
        if self.status in ("unscored", "error"):
            return None
        return max(self.rule or 0.0, self.judge or 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The G completions of one example and their scores, in the same order."""

    example: Example
    completions: tuple[Completion, ...]
    scores: tuple[Score, ...]


_EXAMPLE = TypeAdapter(Example)


def example_from_dict(row: dict[str, Any]) -> Example:
    """Validate one stored row into an :class:`Example`.

    Raises:
        pydantic.ValidationError: naming each bad field, its value and what was expected.
    """
    return _EXAMPLE.validate_python(row)
