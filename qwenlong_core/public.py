"""What other programs may rely on: ``from qwenlong_core import reward``.

These names and their parameters stay as they are within a minor version, and changes are announced in ``CHANGELOG.md``.
Everything else may move. Nothing here needs torch.

- :func:`reward` scores one completion by rule: the reward of training, without judge and length penalty.
- :func:`score_completions` is the whole reward, for many completions at once: rule, judge, length penalty.
- :class:`Source`, :class:`BadRow` and :class:`AnswerRule` are what other distributions add (``CONTRIBUTING.md``).
- :class:`Example`, :class:`Completion` and :class:`Score` are its records; :class:`LengthLimits`,
  :class:`RewardSettings`, :class:`Judge` and :class:`JudgeSettings` its settings.

``examples/`` plugs :func:`reward` into TRL, verl and verifiers.
"""

from __future__ import annotations

from collections.abc import Sequence

from qwenlong_core.answer_types import AnswerRule
from qwenlong_core.data.sources.catalogue import Source
from qwenlong_core.data.sources.validation import BadRow, checked
from qwenlong_core.records import AnswerType, Completion, Example, Score
from qwenlong_core.rewards.hybrid import score_completions_sync as score_completions
from qwenlong_core.rewards.hybrid import score_text
from qwenlong_core.rewards.infer import infer_answer_type
from qwenlong_core.rewards.judge import Judge
from qwenlong_core.rewards.length import LengthLimits
from qwenlong_core.settings.rewards import JudgeSettings, RewardSettings

__all__ = [
    "AnswerRule",
    "BadRow",
    "Completion",
    "Example",
    "Judge",
    "JudgeSettings",
    "LengthLimits",
    "RewardSettings",
    "Score",
    "Source",
    "reward",
    "score_completions",
]


def reward(
    completion: str,
    answers: str | Sequence[str],
    *,
    answer_type: AnswerType | None = None,
    question: str = "",
    choices: Sequence[str] = (),
    answer_scale: str | None = None,
    truncated: bool = False,
    number_tolerance: float = RewardSettings().number_tolerance,
) -> Score:
    """What a completion earns by rule, as in training: ``.value`` is 1.0 or 0.0, ``.reason`` says why.

    Args:
        completion: The whole answer, with its thinking.
        answers: Gold answers, any one of which is right; of a choice one letter.
        answer_type: By default as it looks: a letter where there are choices, else unanswerable, yes or no, a number,
            or a span. Give ``span`` where a number is a name, such as a year.
        question: Its wording can tell in which unit or scale a number is asked.
        choices: Texts of the options A, B, C ...
        answer_scale: ``percent``, ``thousand``, ``million`` or ``billion``, if the gold is a bare number in that scale.
        truncated: Whether the completion was cut at its limit: then its last words commit to nothing.
        number_tolerance: Relative tolerance of numbers.

    Raises:
        ValueError: the gold answers cannot be read as their type. Bad data must stop a training, not score 0.
    """
    golds, options = (answers,) if isinstance(answers, str) else tuple(answers), tuple(choices)
    example = Example(
        id="reward",
        source="reward",
        domain="math",
        answer_type=answer_type or infer_answer_type("math", golds, options),
        context="",
        question=question,
        answers=golds,
        choices=options,
        metadata={"answer_scale": answer_scale} if answer_scale else {},
    )
    return score_text(checked(example), completion, number_tolerance, truncated=truncated).score
