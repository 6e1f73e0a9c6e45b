"""Every row of the golden tables through the whole rule path.

``words.jsonl`` holds answers in words, ``numbers.jsonl`` the grammar of numbers.
"""

from typing import Any

import pytest
from reward_cases import cases, completion_of, example_of, lazy_scorer_pays

from qwenlong_core.rewards.hybrid import score_by_rule
from qwenlong_core.settings.rewards import RewardSettings

CASES = cases()
ROWS = [*CASES, *cases("words"), *cases("numbers")]


@pytest.mark.parametrize("case", ROWS, ids=[case["id"] for case in ROWS])
def test_golden(case: dict[str, Any]) -> None:
    stage = score_by_rule(example_of(case), completion_of(case), RewardSettings())
    assert stage.score.rule == case["rule"], stage.score.reason
    assert stage.score.value == (case["rule"] or 0.0)
    if "judge" in case:
        assert (stage.question is not None) == case["judge"], stage.score.reason


def test_the_table_is_large_and_at_least_half_of_it_would_fool_a_lazy_scorer() -> None:
    fooling = [case for case in CASES if case["rule"] != 1.0 and lazy_scorer_pays(case)]
    assert len(CASES) >= 300
    assert len(fooling) >= len(CASES) / 2, f"{len(fooling)} of {len(CASES)}"


def test_ids_are_unique_and_every_wrong_answer_says_why() -> None:
    assert len({case["id"] for case in ROWS}) == len(ROWS)
    for case in ROWS:
        assert score_by_rule(example_of(case), completion_of(case), RewardSettings()).score.reason
