import asyncio
from typing import Any

import pytest
from endpoint_server import says, served

from qwenlong_core.records import Completion, Example, FinishReason
from qwenlong_core.rewards.hybrid import score_completions_sync
from qwenlong_core.rewards.judge import Judge
from qwenlong_core.rewards.length import LengthLimits
from qwenlong_core.settings.rewards import JudgeSettings, RewardSettings

SETTINGS = RewardSettings()


def example(answer: str = "32", answer_type: str = "number", **more: Any) -> Example:
    return Example(
        id="e",
        source="test",
        domain="math",
        answer_type=answer_type,
        context="",
        question=more.pop("question", "?"),
        answers=(answer,),
        **more,
    )


def completion(text: str, tokens: int = 10, finish: FinishReason = "stop") -> Completion:
    return Completion(text=text, token_ids=tuple(range(tokens)), finish_reason=finish)


def score(
    text: str,
    *,
    tokens: int = 10,
    finish: FinishReason = "stop",
    limits: LengthLimits | None = None,
    **gold: Any,
) -> Any:
    return score_completions_sync([example(**gold)], [completion(text, tokens, finish)], SETTINGS, limits)[0]


def test_right_answer_is_paid() -> None:
    got = score("<think>30 + 2</think>Therefore, the answer is 32.")
    assert (got.value, got.rule, got.judge, got.extracted, got.status) == (1.0, 1.0, None, "32", "scored")


def test_length_penalty_is_added_and_accuracy_kept_apart() -> None:
    got = score("The answer is 32.", tokens=95, limits=LengthLimits(max_tokens=100, cache_tokens=10))
    assert (got.value, got.length_penalty, got.accuracy) == (0.5, -0.5, 1.0)


def test_evaluation_gives_no_length_penalty() -> None:
    assert score("The answer is 32.", tokens=100_000).value == 1.0


def test_cut_completion_without_commitment_is_truncated_and_penalized() -> None:
    got = score("<think>long", tokens=100, finish="length", limits=LengthLimits(max_tokens=100, cache_tokens=10))
    assert (got.status, got.value, got.rule, got.extracted, got.accuracy) == (
        "truncated",
        -1.0,
        None,
        None,
        0.0,
    )


def test_answer_committed_before_the_cut_counts() -> None:
    got = score("The answer is 32. Let me check this once more and", finish="length")
    assert (got.status, got.value) == ("scored", 1.0)


def test_answer_that_the_cut_may_have_shortened_does_not_count() -> None:
    assert score("The answer is 32", finish="length").status == "truncated"
    assert score("The answer is 32", finish="stop").value == 1.0


def test_no_commitment_is_no_answer_worth_zero() -> None:
    got = score("It might be 32.")
    assert (got.status, got.value, got.rule) == ("no_answer", 0.0, None)


def test_every_completion_needs_its_example() -> None:
    with pytest.raises(ValueError, match="1 examples for 0 completions"):
        score_completions_sync([example()], [], SETTINGS)


@pytest.mark.parametrize(
    ("gold", "message"),
    [
        ({"answer": "a lot"}, "gold 'a lot' is not a number"),
        ({"answer": "E", "answer_type": "choice", "choices": ("x", "y")}, r"one letter in A\.\.B"),
        ({"answer": "maybe", "answer_type": "yes_no"}, "must be yes or no"),
        ({"metadata": {"answer_scale": "dozen"}}, "answer_scale='dozen' is unknown"),
    ],
)
def test_unusable_gold_stops_the_run_instead_of_scoring_zero(gold: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score("The answer is 32.", **gold)


def test_scoring_works_inside_a_running_event_loop_as_in_a_notebook() -> None:
    paris, said = example("Paris", "span"), completion("The answer is the French capital.")

    async def cell(judge: Judge) -> float | None:
        return score_completions_sync([paris], [said], SETTINGS, None, judge)[0].value

    with served(lambda _number, _request: says("[[YES]]")) as server:
        assert asyncio.run(cell(Judge(JudgeSettings(base_url=server.url, model="m")))) == 1.0
