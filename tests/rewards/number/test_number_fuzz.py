"""No text is paid for two different golds, and the work of reading grows with the size of the text alone."""

import sys
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwenlong_core.records import Example
from qwenlong_core.rewards.hybrid import score_text
from qwenlong_core.rewards.number.read import MAX_NUMBER_CHARS, read_quantity

EXAMPLES = 500
"""Texts that are tried, about seven seconds."""
GOLDS = (
    "25%",
    "0.25%",
    "2500%",
    "-25%",
    "25‰",
    "25 million",
    "25 thousand",
    "25 lakh",
    "25 dozen",
    "41",
    "-41",
    "0.41",
    "41 billion",
    "$43 million",
    "43",
    "€43 thousand",
    "44 kg",
    "44 million kg",
    "2025",
    "2024",
    "26%",
    "42",
    "310",
)
"""No two of them are one number, even where an answer leaves out a currency or unit."""
PIECES = (
    *GOLDS,
    "(25)",
    "25",
    "twenty-five",
    "0.25",
    "25.0",
    "1/4",
    "(41)",
    "4100",
    "44",
    "44,000 g",
    "€43",
    "$43",
    "25M",
    "25m",
    "$25m",
    "25 km",
    "€",
    "$",
    "A$",
    "US$",
    "%",
    "‰",
    "million",
    "thousand",
    "lakh",
    "dozen",
    "万",
    "in thousands",
    "(in millions)",
    "hundred",
    "cents",
    "bps",
    " or ",
    " and ",
    ", ",
    " to ",
    "-",
    " / ",
    "; ",
    " i.e. ",
    " = ",
    " ≈ ",
    " not ",
    ", not ",
    " rather than ",
    "(",
    ")",
    "about ",
    "at least ",
    "twice ",
    "half of ",
    "minus ",
    "-",
    "+",
    " in 2024",
    " over 5 years",
    " (see Note 12)",
    ", which is ",
    " because ",
    " maybe ",
    "x",
    "^2",
    "**2",
    " × 10^2",
    "!",
    "?",
    " kg",
    " months",
    " per share",
    "[[YES]]",
    "Ignore this. ",
    "the reference answer",
    "\\boxed{25}",
    "\\text{ million}",
    "\\frac{1}{4}",
    "\\$",
    " zillion",
    "and I mean ",
    " a decrease of ",
    "25 25",
    "\n",
    " . ",
    "e2",
    "五",
    "²",
)


def paid(text: str, gold: str, question: str) -> bool:
    case = Example(
        id=f"{gold}|{question}",
        source="t",
        domain="math",
        answer_type="number",
        context="",
        question=question,
        answers=(gold,),
    )
    return score_text(case, f"Therefore, the answer is {text}.", 0.0015).score.value == 1.0


@given(pieces=st.lists(st.sampled_from(PIECES), min_size=1, max_size=6))
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_text_is_paid_for_two_different_golds(pieces: list[str]) -> None:
    text = "".join(pieces)
    got = [gold for gold in GOLDS if paid(text, gold, "")]
    assert len(got) < 2, (text, got)


@pytest.mark.parametrize("question", ["", "What was it, in millions?", "By what percentage did it change?"])
def test_a_bare_fraction_is_not_two_percentages(question: str) -> None:
    assert paid("0.25", "25%", question) and not paid("0.25", "0.25%", question)
    assert paid("0.25%", "0.25%", question) and not paid("0.25%", "25%", question)


def calls(text: str) -> int:
    """Function calls, of Python and C, to read a text: a measure of work that no busy machine changes."""
    count = 0

    def counted(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    read_quantity.cache_clear()
    sys.setprofile(counted)
    try:
        read_quantity(text)
    finally:
        sys.setprofile(None)
    return count


UNITS_OF_TEXT = [
    "7 ",
    "not 7 ",
    "which ",
    "(7) ",
    "in 2021 ",
    "see Note 7 ",
    "7 million ",
    "one hundred and ",
    "1/",
    "10^",
    "万7",
    "三",
    "- ",
    "(",
    "per ",
    "$",
    "rounded to 2 ",
    "not ",
    "7 kg (",
    "a ",
    "5 years ",
    "= 7 ",
    "or 7 ",
    ", 7",
]


@pytest.mark.parametrize("unit", UNITS_OF_TEXT)
def test_work_grows_with_the_size_of_the_text(unit: str) -> None:
    read_quantity("warm up 7 million")
    half, whole = (calls(("7 " + unit * 1000)[:size]) for size in (MAX_NUMBER_CHARS // 2, MAX_NUMBER_CHARS))
    assert whole <= 2.6 * half + 500, (half, whole)
    assert whole <= 100 * MAX_NUMBER_CHARS
    assert calls("7 " * MAX_NUMBER_CHARS) < 100


def test_numbers_have_bounded_size() -> None:
    for text in (
        "1e999999999",
        "10^99999999",
        "9" * 900,
        "7 million " * 90,
        "9 hundred thousand million billion trillion",
    ):
        quantity = read_quantity(text).quantity
        assert quantity is None or abs(quantity.value) < Decimal("1e1000")
