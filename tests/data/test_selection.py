"""Which traces are kept, by cases worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
from test_thinking_template import R1_DISTILL

from qwenlong_core.data.prompts import encode, prompt_tokens
from qwenlong_core.data.selection import Rules, Trace, repeated_share, select
from qwenlong_core.records import Example
from qwenlong_core.settings.distill import DistillSettings

ROW = Example(
    id="r", source="t", domain="math", answer_type="number", context="Sales were $15 million.", question="How much?",
    answers=("$15 million",),
)  # fmt: skip
SHORT = "<think>\nI read it.\n</think>\n\nTherefore, the answer is $15 million."
LONG = "<think>\nI read it, and then I read it again to be sure.\n</think>\n\nTherefore, the answer is $15 million."
CIRCLES = "<think>\n" + "It says so in the text. " * 30 + "\n</think>\n\nTherefore, the answer is $15 million."


def rules(limit: int | None = None, **changes: Any) -> Rules:
    return Rules(settings=DistillSettings(**changes), number_tolerance=1e-6, max_row_tokens=limit)


def outcomes(tokenizer: Any, *texts: str, **changes: Any) -> list[str]:
    return select(ROW, [Trace(text) for text in texts], tokenizer, rules(**changes)).outcomes


@pytest.mark.parametrize(
    ("trace", "outcome"),
    [
        (Trace(SHORT), "kept"),
        (Trace(SHORT, "length"), "truncated"),
        (Trace("<think>\nI read it. Therefore, the answer is $15 million."), "no_answer"),
        (Trace("I do not know."), "no_answer"),
        (Trace("Therefore, the answer is $16 million."), "wrong"),
        (Trace("Therefore, the answer is $15 million or $16 million."), "no_answer"),
        (Trace(CIRCLES), "repetitive"),
    ],
)
def test_a_trace_is_kept_or_has_a_reason(tokenizer: Any, trace: Trace, outcome: str) -> None:
    assert select(ROW, [trace], tokenizer, rules()).outcomes == [outcome]


def test_what_only_a_judge_could_tell_is_undecided(tokenizer: Any) -> None:
    row = Example(
        id="s", source="t", domain="multihop", answer_type="span", context="", question="Which city?",
        answers=("Paris",),
    )  # fmt: skip
    texts = ["Therefore, the answer is Paris.", "Therefore, the answer is the French capital."]
    assert select(row, [Trace(text) for text in texts], tokenizer, rules()).outcomes == ["kept", "undecided"]


def test_the_shortest_are_kept_and_a_copy_is_none_of_them(tokenizer: Any) -> None:
    traces = [Trace(text) for text in (LONG, SHORT, "Therefore, the answer is $16 million.", SHORT)]
    one = select(ROW, traces, tokenizer, rules())
    assert (one.outcomes, one.kept) == (["surplus", "kept", "wrong", "surplus"], [SHORT])
    two = select(ROW, traces, tokenizer, rules(keep_per_question=2))
    assert (two.outcomes, two.kept) == (["kept", "kept", "wrong", "surplus"], [SHORT, LONG])
    assert select(ROW, [], tokenizer, rules()).outcomes == []


def test_lengths_are_the_policys_tokens_with_the_end_of_sequence(tokenizer: Any) -> None:
    tokens, prompt = len(encode(tokenizer, SHORT)) + 1, prompt_tokens(tokenizer, ROW)
    assert outcomes(tokenizer, SHORT, min_trace_tokens=tokens, max_trace_tokens=tokens) == ["kept"]
    assert outcomes(tokenizer, SHORT, min_trace_tokens=tokens + 1) == ["too_short"]
    assert outcomes(tokenizer, SHORT, max_trace_tokens=tokens - 1) == ["too_long"]
    for limit, outcome in ((prompt + tokens, "kept"), (prompt + tokens - 1, "too_long")):
        assert select(ROW, [Trace(SHORT)], tokenizer, rules(limit)).outcomes == [outcome]


def test_a_trace_must_continue_the_policys_template(tokenizer: Any) -> None:
    """R1's template opens the thinking: a trace without ``</think>`` would be thinking to its end."""
    assert outcomes(tokenizer, "Therefore, the answer is $15 million.") == ["kept"]
    tokenizer.chat_template = R1_DISTILL
    assert outcomes(tokenizer, "Therefore, the answer is $15 million.", SHORT) == ["open_thinking", "kept"]


def test_thinking_that_the_servers_template_opened_is_opened_in_the_row(tokenizer: Any) -> None:
    assert select(ROW, [Trace(SHORT.removeprefix("<think>\n"))], tokenizer, rules()).kept == [SHORT]


@pytest.mark.parametrize(
    ("ids", "share"),
    [
        ([], 0.0),
        ([1] * 15, 0.0),  # no whole run
        (list(range(40)), 0.0),
        ([1] * 20, 4 / 5),  # five runs, all equal
        (list(range(16)) * 2, 1 / 17),  # of 17 runs only the last one occurred before
        ([*range(32), *range(32)], 17 / 49),  # the runs inside the copy, of 49
    ],
)
def test_the_share_of_runs_that_occurred_before(ids: list[int], share: float) -> None:
    assert repeated_share(ids) == pytest.approx(share)
