"""The two case studies: the arithmetic by hand, the traps, and the documents."""

from __future__ import annotations

from typing import Any

import pytest

from qwenlong_core.data.prompts import prompt_tokens
from qwenlong_core.data.synthesis.cases import CASES, case_study, longest_that_fits
from qwenlong_core.rewards.hybrid import score_text
from qwenlong_core.settings.rewards import RewardSettings


def score(name: str, answer: str) -> float | None:
    text = f"Therefore, the answer is {answer}."
    return score_text(case_study(name, short=True), text, RewardSettings().number_tolerance).score.rule


@pytest.mark.parametrize("short", [False, True])
def test_the_bond_by_hand(short: bool) -> None:
    """750 x 4.0% = 30.0 a year, 15.0 each half-year; 15.0 + 15.0 + 2.4 = 32.4."""
    case = case_study("bond", short=short)
    said = ("$750 million of 4.0% senior notes", "$15.0 million is paid every six months", "$2.4 million in fees")
    assert all(case.context.count(part) == 1 for part in said)
    assert "beginning on October 15" in case.context
    assert "Note 7. Senior notes." in case.context
    assert case.answers == ("$32.4 million",)
    assert pytest.approx(32.4) == 750 * 4 / 100 + 2.4


@pytest.mark.parametrize("short", [False, True])
def test_the_debt_by_hand(short: bool) -> None:
    """9,046,154 x 10% = 904,615.40 a year, 75,384.62 a month; August to July and one more are 13 months: 980,000."""
    case = case_study("debt", short=short)
    said = ("$9,046,154 under", "simple interest of 10% a year", "originally due in July 2022", "to August 2023")
    assert all(case.context.count(part) == 1 for part in said)
    assert case.answers == ("$980,000",)
    assert pytest.approx(980_000, abs=0.1) == 13 * 75_384.6167


@pytest.mark.parametrize(
    ("name", "answer", "trap"),
    [
        ("bond", "$32.4 million", "right"),
        ("bond", "$32,400,000", "right"),
        ("bond", "$17.4 million", "one half-yearly payment for the year's interest"),
        ("bond", "$30.24 million", "the year's share of the amortized fees"),
        ("bond", "$30 million", "no fees"),
        ("bond", "$36.1 million", "the other company's bond: 33.0 + 3.1"),
        ("bond", "$32.4 billion", "another scale"),
        ("debt", "$980,000", "right"),
        ("debt", "980,000 dollars", "right"),
        ("debt", "$0.98 million", "right"),
        ("debt", "$904,615", "twelve months"),
        ("debt", "$1,055,385", "fourteen months"),
        ("debt", "$1,030,410", "compounded monthly"),
        ("debt", "$976,080", "0.83% a month, rounded too early"),
        ("debt", "$750,000", "the other company's loan: 18 months of 6,250,000 x 8%"),
    ],
)
def test_the_answer_is_paid_and_the_traps_are_not(name: str, answer: str, trap: str) -> None:
    assert score(name, answer) == (1.0 if trap == "right" else 0.0)


@pytest.mark.parametrize("name", CASES)
def test_the_short_report_fits_the_smallest_profile_and_the_full_one_is_long(tokenizer: Any, name: str) -> None:
    short, full = case_study(name, short=True), case_study(name)
    assert prompt_tokens(tokenizer, short) <= 512
    assert 15_000 <= prompt_tokens(tokenizer, full) <= 25_000
    assert short.question == full.question
    found = [longest_that_fits(tokenizer, name, limit, "paper") for limit in (30_000, 1_024, 100)]
    assert [case and case.metadata["version"] for case in found] == ["full", "short", None]
    assert found[0] is not None
    assert found[0].context == full.context


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("short", [False, True])
def test_the_evidence_lies_in_two_notes_and_the_document_is_always_the_same(name: str, short: bool) -> None:
    case = case_study(name, short=short)
    passages = [case.context[start:end].partition(".")[0] for start, end in case.metadata["evidence"]]
    assert passages == {"bond": ["Senior notes", "Issuance fees"], "debt": ["Term loan", "Amendments"]}[name]
    assert case == case_study(name, short=short)
    if not short:
        first, second = (start / len(case.context) for start, _ in case.metadata["evidence"])
        assert second - first > 0.4, "a reader has to combine places far apart"


def test_a_case_of_another_name_is_refused_with_the_names() -> None:
    with pytest.raises(ValueError, match="'loan' is no case study: use one of bond, debt"):
        case_study("loan")
