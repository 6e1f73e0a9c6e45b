"""Which traces of a question are worth imitating: verified by the reward's rule, of fitting length, not in circles.

A pure function of the traces, so other filters never ask a teacher again. A judge has no say: one that is talked into a
wrong answer would put it into the training data.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qwenlong_core.data.distill_counts import Outcome
from qwenlong_core.data.prompts import as_completion, encode, render_prompt
from qwenlong_core.records import Example, FinishReason
from qwenlong_core.rewards.hybrid import score_text
from qwenlong_core.settings.distill import DistillSettings

RUN = 16
"""Tokens of a run that counts as repeated: long enough that a figure or a name of the document does not."""

_OPENED = re.compile(r"\A\s*<think>")


@dataclass(frozen=True, slots=True)
class Trace:
    """One solution of a question."""

    text: str
    finish_reason: FinishReason = "stop"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What a trace must fulfil."""

    settings: DistillSettings
    number_tolerance: float
    """``rewards.number_tolerance``."""
    max_row_tokens: int | None = None
    """Limit of prompt and trace together; ``None`` leaves it to a later preparation."""


@dataclass(frozen=True, slots=True)
class Selected:
    """What became of the traces of one question."""

    outcomes: list[Outcome]
    """One per trace, in order."""
    kept: list[str]
    """The texts to imitate, the shortest first."""


def whole_thinking(text: str) -> str:
    """The trace with its thinking opened: where the template opened it, a server's text begins behind the tag."""
    text = text.strip()
    return f"<think>\n{text}" if "</think>" in text and not _OPENED.match(text) else text


def verdict(example: Example, trace: Trace, number_tolerance: float) -> Outcome:
    """``kept`` if the trace is whole and the reward's rule finds its answer right, else the reason against it."""
    if trace.finish_reason == "length":
        return "truncated"
    stage = score_text(example, trace.text, number_tolerance)
    if stage.score.rule == 1.0:
        return "kept"
    if stage.score.rule is None:
        return "no_answer"
    return "wrong" if stage.question is None else "undecided"


def repeated_share(ids: Sequence[int], run: int = RUN) -> float:
    """Share of the runs of ``run`` tokens that occurred before in the same text; 0 if there is at most one run."""
    runs = [tuple(ids[start : start + run]) for start in range(len(ids) - run + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def select(example: Example, traces: Sequence[Trace], tokenizer: Any, rules: Rules) -> Selected:
    """Choose among the traces of one question.

    Args:
        example: The question, measured (``num_tokens``).
        traces: Its traces; the outcome does not depend on anything else.
        tokenizer: The policy's, which counts and whose chat template the trace must continue.
        rules: The filters.
    """
    prompt = render_prompt(tokenizer, example)
    outcomes: list[Outcome] = []
    good: dict[str, tuple[int, int]] = {}
    for number, trace in enumerate(traces):
        outcome, text = verdict(example, trace, rules.number_tolerance), whole_thinking(trace.text)
        if outcome == "kept":
            outcome, tokens = _form(example, text, prompt, tokenizer, rules)
            if outcome == "kept" and text in good:
                outcome = "surplus"
            elif outcome == "kept":
                good[text] = (tokens, number)
        outcomes.append(outcome)
    in_order = sorted(good, key=good.__getitem__)  # the shortest first, then the first given
    limit = rules.settings.keep_per_question
    for text in in_order[limit:]:
        outcomes[good[text][1]] = "surplus"
    return Selected(outcomes, in_order[:limit])


def _form(example: Example, text: str, prompt: str, tokenizer: Any, rules: Rules) -> tuple[Outcome, int]:
    """Whether a right trace can be imitated as it is written, and its tokens with the end of the sequence."""
    settings = rules.settings
    try:
        ids = encode(tokenizer, as_completion(prompt, text))
    except ValueError:
        return "open_thinking", 0
    tokens = len(ids) + 1
    row = (example.num_tokens or len(encode(tokenizer, prompt))) + tokens
    if tokens < settings.min_trace_tokens:
        return "too_short", tokens
    if tokens > settings.max_trace_tokens or (rules.max_row_tokens is not None and row > rules.max_row_tokens):
        return "too_long", tokens
    return ("repetitive" if repeated_share(ids) > settings.max_repeated_share else "kept"), tokens
