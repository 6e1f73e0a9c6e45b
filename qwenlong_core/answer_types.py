"""Answer types of other distributions (entry points ``qwenlong.answer_types``; :mod:`qwenlong_core.plugged`).

The tree's own have their rules in :mod:`qwenlong_core.rewards.rules`.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qwenlong_core.plugged import plugged
from qwenlong_core.records import ANSWER_TYPES, answer_types


@dataclass(frozen=True, kw_only=True)
class AnswerRule:
    """How the answers of a type are read, compared and asked for.

    In doubt an answer is undecided: the rule pays nothing, and a judge may be asked. That holds too where ``read`` or
    ``equal`` raises an exception on it.
    """

    read: Callable[[str], Any]
    """What a text means, of a gold and of the committed answer; ``None``: it is no answer of this type."""
    equal: Callable[[Any, Any], bool | None] = operator.eq
    """Whether an answer means the same as a gold (in this order). ``None``: only a judge can tell."""
    ask: str = ""
    """A sentence after the form that the prompt asks for, such as ``Write the date as YYYY-MM-DD.``"""


@functools.cache
def answer_rules() -> dict[str, AnswerRule]:
    """The rules of other distributions by answer type.

    Raises:
        ValueError: one cannot be used.
    """
    return plugged("answer_types", AnswerRule, ANSWER_TYPES)


def rule_of(answer_type: str) -> AnswerRule | None:
    """The rule of another distribution's answer type; ``None`` for the tree's own types.

    Raises:
        ValueError: there is no such type, or one of another distribution cannot be used.
    """
    if answer_type in ANSWER_TYPES:
        return None
    if answer_type not in answer_rules():
        raise ValueError(f"there is no answer type {answer_type!r}: take one of {', '.join(answer_types())}")
    return answer_rules()[answer_type]
