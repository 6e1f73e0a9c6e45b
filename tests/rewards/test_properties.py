"""Properties that must hold for any text: bounded work, no exception, and no gain from hedging."""

import time
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from qwenlong_core.records import AnswerType, Completion, Example
from qwenlong_core.rewards.extract import extract_answer
from qwenlong_core.rewards.hybrid import score_by_rule
from qwenlong_core.rewards.number.equal import same_quantity
from qwenlong_core.rewards.number.read import read_quantity
from qwenlong_core.rewards.rules import rule_score
from qwenlong_core.settings.rewards import RewardSettings

GOLDS: dict[AnswerType, str] = {
    "number": "$32.4 million",
    "choice": "B",
    "span": "Marie Curie",
    "yes_no": "no",
    "unanswerable": "unanswerable",
}
CHOICES = ("Paris", "London", "Rome", "Berlin")
MAX_CHARS = 100_000  # of a completion of some 25,000 tokens

FRAGMENTS = [
    "the answer is ", "Therefore, the answer is ", "answer to ", "answer: ", "the correct answer is (", "\\boxed{",
    "\\boxed", "{", "}", "<think>", "</think>", "<", "think>", "\\frac{", "\\text{", "\\mathrm{\\textbf{", "$",
    "$$", "\\$", "**", "__", "`", "*", "_", "1", "9" * 50, ",", ".", "1,000", "1.234.", "e9", "^", "**9", "/", "(",
    ")", "-", "−", "½", "²", " or ", " and ", "A", "B", "(A)", "(B),", "a ", "the ", "An ", "yes", "no", "not ",
    "million", "%", "\n", " ", "\t", "\u200b", "\u202e", "Dr. ", "U.S. ", "! ", "。", "or\n", "insert ", "= ", "≈",
    "~", "'", '"', "\x00", "答案是", "1. x\n", "- x\n", "[[YES]]", "0" * 200, "é", "е", "😀", "\ud7ff",
    "in millions ", ";", "|", "<|im_end|>",
]  # fmt: skip


@st.composite
def hostile_texts(draw: st.DrawFn) -> str:
    """A few fragments, some repeated until the text has the longest length allowed."""
    pieces = draw(st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=20)), min_size=1, max_size=6))
    unit = "".join(pieces)
    copies = draw(st.sampled_from([1, 3, MAX_CHARS // (len(unit) + 1) + 1]))
    before, after = draw(
        st.tuples(st.sampled_from(["", "the answer is "]), st.sampled_from(["", ".", "}", " million."]))
    )
    return (before + (unit * copies)[: MAX_CHARS - 60] + after)[:MAX_CHARS]


def gold_example(answer_type: AnswerType) -> Example:
    return Example(
        id="e",
        source="t",
        domain="math",
        answer_type=answer_type,
        context="",
        question="How much, in millions?",
        answers=(GOLDS[answer_type],),
        choices=CHOICES if answer_type == "choice" else (),
    )


def paid(text: str, case: Example) -> float:
    completion = Completion(text=text, token_ids=(), finish_reason="stop")
    return score_by_rule(case, completion, RewardSettings()).score.value or 0.0


@pytest.mark.parametrize("answer_type", tuple(GOLDS))
@given(text=hostile_texts())
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_text_is_scored_within_a_second_without_an_exception(answer_type: AnswerType, text: str) -> None:
    case = gold_example(answer_type)
    start = time.process_time()
    paid(text, case)
    rule_score(text, case)  # the rule alone must cope with the whole text, too
    extract_answer(text, answer_type, case.choices, truncated=True)
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize(
    "repeated", [" ", "\n", "\u3000", ".", ",", "'", '"', "“", "(", "[", "\\(", "+ ", "< ", "- ", "½", "Paris "]
)
@pytest.mark.parametrize("before", ["", "B ", "5", "the answer is "])
def test_a_rule_reads_a_long_run_of_anything_once(repeated: str, before: str) -> None:
    """A pattern that tries a run's every end needs seconds for 20,000 characters, and hours for the longest text."""
    text = before + repeated * (20_000 // len(repeated)) + "x"
    for answer_type in GOLDS:
        start = time.process_time()
        rule_score(text, gold_example(answer_type))
        assert time.process_time() - start < 1.0, answer_type


@pytest.mark.parametrize("scorer", ["ruler-all", "ruler-any", "mrcr"])
@given(text=hostile_texts())
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_published_scorer_gives_a_share_for_any_text(scorer: str, text: str) -> None:
    """Not a reward, so what follows does not ask it: naming everything is paid by the published rule."""
    case = replace(
        gold_example("span"), answer_type="published", answers=("q7 gold",), metadata={"scorer": scorer, "prefix": "q7"}
    )
    for said in (text, f"q7{text}"):
        assert 0 <= paid(said, case) <= 1


def same(a: str, b: str) -> bool:
    answer, gold = read_quantity(a).quantity, read_quantity(b).quantity
    assert answer is not None and gold is not None, (a, b)
    return same_quantity(answer, gold, 0.0)


finite = st.floats(min_value=-1e11, max_value=1e11, allow_nan=False).map(lambda x: round(x, 4))


@given(x=finite)
@settings(deadline=None)
@example(x=0.0)
@example(x=-0.0001)
@example(x=1e11)
def test_a_formatted_number_equals_itself(x: float) -> None:
    plain = f"{x:.4f}"
    size = f"{abs(x):,.4f}"
    sign = "-" if x < 0 else ""
    spellings = [
        repr(x), f"{x:,.4f}", f"{x:e}" if float(f"{x:e}") == x else plain, f"{sign}${size}", f"${sign}{size}",
        f"{sign}{size} dollars", f"{sign}{size}".replace("-", "−"), f"approximately {x:,.4f}", f"**{plain}**",
        f"\\boxed{{{plain}}}"[7:-1], f"x = {plain}", f"{sign}{size}".replace(",", "\u202f"),
        f"{sign}{size}".replace(",", "{,}"), f"USD {sign}{size}", f"{plain} ({x:,.4f})",
    ]  # fmt: skip
    if x < 0:
        spellings += [f"({plain})", f"$({size})", f"negative {size}"]
    else:
        spellings += [f"({size})", f"(${size})"]
    for spelling in spellings:
        assert same(spelling, plain), spelling


@given(
    x=st.integers(-(10**9), 10**9),
    scale=st.sampled_from(
        [("thousand", 3), ("million", 6), ("billion", 9), ("bn", 9), ("K", 3), ("M", 6), ("trillion", 12)]
    ),
)
def test_a_scale_word_equals_its_zeros(x: int, scale: tuple[str, int]) -> None:
    word, zeros = scale
    assert same(f"{x} {word}", f"{x}{'0' * zeros}" if x else "0")
    assert same(f"{x}%", str(Decimal(x).scaleb(-2)))


@given(x=finite, factor=st.sampled_from([-1, 10, 100, 1000, 0.1, 0.01, 1e6]))
def test_sign_and_magnitude_count(x: float, factor: float) -> None:
    assume(abs(x) > 1e-2)
    other = f"{x * factor:.6f}"
    gold, answer = read_quantity(f"{x:.4f}").quantity, read_quantity(other).quantity
    assert gold is not None and answer is not None
    assert not same_quantity(answer, gold, 0.0015)


WRONG = {
    "number": [
        "33",
        "$33 million",
        "-32.4",
        "32.4",
        "thirty-three",
        "0",
        "$32.5 million",
        "40%",
        "$1bn",
        "2020",
    ],
    "choice": ["A", "(C)", "D", "(A)", "Paris", "Rome", "(B) or C", "E"],
    "span": ["Pierre Curie", "London", "the", "a", "x", "Marie", "nobody", "1867", "a Polish chemist"],
    "yes_no": ["yes", "Yes", "maybe", "unknown", "true", "it depends"],
    "unanswerable": ["Paris", "yes", "32"],
}
JOINS = [
    " or ",
    ", ",
    " and ",
    "; ",
    " / ",
    ", or ",
    ". Or ",
    ". Alternatively, ",
    " or maybe ",
    "\nOr ",
    " | ",
    ". The answer is ",
    " or the answer is ",
    ". Maybe ",
    "/",
    ";",
    " vs ",
    " - ",
    ", but maybe ",
    "; alternatively ",
    ", possibly ",
    ". Otherwise ",
    " ... ",
    ", if not ",
    " and/or ",
    " & ",
]


@given(
    data=st.data(),
    answer_type=st.sampled_from(tuple(GOLDS)),
    join=st.sampled_from(JOINS),
    wrong_first=st.booleans(),
)
@settings(max_examples=600, deadline=None)
def test_adding_a_wrong_alternative_never_raises_the_score(
    data: st.DataObject, answer_type: AnswerType, join: str, wrong_first: bool
) -> None:
    case = gold_example(answer_type)
    base = data.draw(st.sampled_from([GOLDS[answer_type], *WRONG[answer_type]]))
    wrong = data.draw(st.sampled_from(WRONG[answer_type]))
    alone = paid(f"The answer is {base}.", case)
    both = f"{wrong}{join}{base}" if wrong_first else f"{base}{join}{wrong}"
    corrected = wrong_first and "The answer is" in join  # a self-correction, not an alternative
    assert corrected or paid(f"The answer is {both}.", case) <= alone


@given(
    data=st.data(),
    answer_type=st.sampled_from(["number", "choice", "span", "yes_no"]),
    join=st.sampled_from([" or ", " / ", " or maybe ", " | ", ". Or ", ", maybe ", "; or ", " vs "]),
)
@settings(max_examples=300, deadline=None)
def test_the_gold_beside_a_wrong_alternative_is_not_paid(
    data: st.DataObject, answer_type: AnswerType, join: str
) -> None:
    case = gold_example(answer_type)
    wrong = data.draw(
        st.sampled_from([w for w in WRONG[answer_type] if w not in ("a", "the")])
    )  # an article says nothing
    pair = data.draw(st.permutations([GOLDS[answer_type], wrong]))
    assert paid(f"The answer is {join.join(pair)}.", case) == 0.0
