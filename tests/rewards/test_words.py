"""Answers in words: a gold repeated word for word is always paid, and no other text is."""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from test_real_golds import example_of

from qwenlong_core.data.prompts import answer_form
from qwenlong_core.records import AnswerType, Example
from qwenlong_core.rewards.hybrid import score_text
from qwenlong_core.rewards.text import normalize_span, strip_wrappers

FOLDER = os.environ.get("QWENLONG_REAL_DATA")
DOCS = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")
FORMS = re.findall(r"^\| [A-Z]\w+ \| (`.+`) \|$", DOCS, re.MULTILINE)
"""Every form that the documentation promises, with ``Paris`` where the answer stands."""


def forms() -> list[str]:
    return [form for cell in FORMS for form in re.findall(r"`(.+?)`", cell)]


def span(*golds: str, kind: AnswerType = "span", choices: tuple[str, ...] = ()) -> Example:
    return Example(
        id="e", source="t", domain="reading", answer_type=kind, context="", question="", answers=golds, choices=choices
    )


def paid(text: str, case: Example) -> bool:
    value = score_text(case, text, 0.0015).score.value
    assert value in (0.0, 1.0)
    return value == 1.0


@pytest.mark.parametrize("form", forms())
def test_every_promised_form_is_read(form: str) -> None:
    assert form.count("Paris") == 1
    for case in (span("Paris"), span("B", kind="choice", choices=("Rome", "Paris", "Oslo"))):
        assert paid(form, case)
        assert not paid(form.replace("Paris", "Oslo"), case)
    assert paid(form.replace("Paris", "No. It Rose. St. Louis! Fell"), span("No. It Rose. St. Louis! Fell"))
    assert not paid(f"<think>{form}</think>", span("Paris"))


def test_the_documentation_promises_as_many_languages_as_the_reader_knows() -> None:
    assert len(forms()) >= 30
    assert len(FORMS) >= 9


def real_examples() -> Iterator[Example]:
    for path in sorted(Path(FOLDER or ".").glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
        yield from (example for example in map(example_of, rows) if example.answer_type != "number")


def sayings(case: Example) -> list[str]:
    """The gold's own words: each gold or, of a choice, letter and text of the option in several orders."""
    if case.answer_type != "choice":
        return list(case.answers)
    letter = case.answers[0]
    text = case.choices[ord(letter) - ord("A")]
    alone = sum(normalize_span(option) == normalize_span(text) for option in case.choices) == 1
    both = [letter, f"({letter})", f"({letter}) {text}", f"{letter}. {text}", f"Option {letter}"]
    return [*both, text, f"{text} ({letter})"] if alone else both


def repeated(case: Example, some: list[str]) -> list[str]:
    """Golds of this example that a repetition in its form does not earn."""
    asked = [answer_form(case.answer_type, gold) for gold in case.answers]
    texts = [*asked, *(form.replace("Paris", said) for said in sayings(case) for form in some)]
    return [text for text in texts if not paid(text, case)]


@pytest.mark.skipif(not FOLDER, reason="QWENLONG_REAL_DATA names no folder")
def test_every_real_gold_repeated_in_every_form_is_paid() -> None:
    drawn = random.Random(15)
    count = 0
    for case in real_examples():
        assert repeated(case, drawn.sample(forms(), 4)) == []
        count += 1
    assert count >= 800


def corrupted(case: Example, other: str) -> list[str]:
    """Answers made from the gold that are not the gold."""
    gold = case.answers[0]
    made = [
        other,
        f"not {gold}",
        f"{gold} or {other}",
        f"{other}, {gold}",
        f"{gold}. Or {other}",
        f"{gold} and {other}",
    ]
    made += [
        f"{gold}. Wait, {other}",
        f"{gold}. {other.rstrip('.')} is also correct",
        f"either {gold} or {other}",
        f"{gold}/{other}",
    ]
    if case.answer_type == "choice":
        text = case.choices[ord(other) - ord("A")]
        made += [f"({gold}) {text}", f"({other})", f"{gold}, or possibly {other}", f"both ({gold}) and ({other})"]
        return made
    return [*made, f"{gold} {other}", f"{other} ({gold})", f"perhaps {gold}"]


def others(case: Example, rows: dict[str, list[str]]) -> list[str]:
    if case.answer_type == "choice":
        letters = [chr(ord("A") + i) for i in range(len(case.choices))]
        mine = normalize_span(case.choices[ord(case.answers[0]) - ord("A")])
        return [x for x in letters if normalize_span(case.choices[ord(x) - ord("A")]) != mine]
    own = {normalize_span(strip_wrappers(gold)) for gold in case.answers}
    return [gold for gold in rows[case.source] if normalize_span(strip_wrappers(gold)) not in own]


@pytest.mark.skipif(not FOLDER, reason="QWENLONG_REAL_DATA names no folder")
def test_no_corrupted_real_gold_is_paid() -> None:
    examples = list(real_examples())
    golds: dict[str, list[str]] = {}
    for case in examples:
        golds.setdefault(case.source, []).extend(case.answers)
    drawn, count = random.Random(16), 0
    for case in examples:
        for other in drawn.sample(others(case, golds), 1):
            bad = [text for text in corrupted(case, other) if paid(f"The answer is {text}.", case)]
            assert bad == [], (case.answers, case.choices)
            count += 1
    assert count >= 800


WORDS = (
    "Yahoo! Inc. Ph.D. p.m. No. 7 St. Louis U.S. Mamma Mia! Here We Go Again it is the BBB- A+ C++ C# < ≤ ≠ = 5′ 10″ "
    "50% $4.5 and or not none of both Paris (B) vs. Rs. crore? wait, yes no. B A: “so” don't 1,5 9**9 R&D Q1/Q2 "
    "東京 です 答案 — - Wham! Then that Or Maybe therefore"
)
WORD = st.sampled_from(WORDS.split(" "))
generated = st.lists(WORD, min_size=1, max_size=7).map(" ".join).filter(lambda text: any(c.isalnum() for c in text))


@given(gold=generated, form=st.sampled_from(["Therefore, the answer is {}.", "Therefore, the answer is ({})."]))
@settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_any_gold_repeated_in_the_asked_form_is_paid(gold: str, form: str) -> None:
    assert paid(form.format(gold), span(gold))


@given(first=generated, second=generated)
@settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_one_gold_is_no_other(first: str, second: str) -> None:
    # A gold that begins another may end with a sentence's end; the golden table has those.
    assume(not normalize_span(strip_wrappers(first)).startswith(normalize_span(strip_wrappers(second))))
    assert not paid(f"Therefore, the answer is {first}.", span(second))


GOLDS = {
    "span": ["Paris", "Yahoo! Inc.", "BBB-", "Mamma Mia! Here We Go Again", "St. Louis", "p < 0.05", "東京"],
    "choice": ["A", "B", "C", "D"],
    "yes_no": ["yes", "no"],
}
OPTIONS = ("Paris", "Rome", "Both A and B", "None of the above")
PIECES = st.sampled_from(
    [
        *(
            " or ",
            " and ",
            ", ",
            "/",
            ". ",
            ". Or ",
            "! ",
            "? ",
            "\n",
            "\n- ",
            " (",
            ") ",
            "; ",
            " vs ",
            ", not ",
            " maybe ",
        ),
        *(
            " wait, ",
            " no, ",
            "。",
            " is ",
            "both ",
            "either ",
            "neither ",
            "not ",
            "The answer is ",
            "\\boxed{",
            "}",
            "**",
        ),
        *(
            "Answer: ",
            " [[YES]] ",
            "whichever the reference says",
            " because ",
            " is also correct",
            " is wrong",
            ":",
            "$",
        ),
        *("Options ", "<think>", "</think>", "答案是", "或", " — actually ", "the ", "…"),
    ]
)
SECONDS = 2.0


def test_no_text_is_paid_for_two_golds() -> None:
    """Hedges, lists and injections, made for a few seconds: whatever a text says, at most one gold is right."""
    until = time.monotonic() + SECONDS
    seen = 0

    @given(data=st.data())
    @settings(max_examples=600, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def attempt(data: st.DataObject) -> None:
        nonlocal seen
        kind: AnswerType = data.draw(st.sampled_from(["span", "choice", "yes_no"]))
        golds = GOLDS[kind]
        part = st.one_of(st.sampled_from(golds), PIECES, st.sampled_from(OPTIONS))
        text = "The answer is " + "".join(data.draw(st.lists(part, min_size=1, max_size=7))) + "."
        if time.monotonic() > until:
            return
        choices = OPTIONS if kind == "choice" else ()
        right = [gold for gold in golds if paid(text, replace(span(gold, kind=kind), choices=choices))]
        seen += 1
        assert len(right) <= 1, (text, right)

    attempt()
    assert seen > 50
