"""Two case studies that QwenLong-L1 is known by: the first-year cost of a bond, and the interest of an extended debt.

Each is a question about an annual report whose evidence lies in two notes far apart. The full report has some 48,000
characters; the short one holds the same two notes and fits in 512 tokens. Text and gold are computed from the same
constants, and every call writes the same bytes.
"""

from __future__ import annotations

from calendar import month_name
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from random import Random
from typing import Any

from qwenlong_core.data.prompts import prompt_tokens, with_form
from qwenlong_core.data.synthesis.document import Shape
from qwenlong_core.data.synthesis.report import Report
from qwenlong_core.records import Example

_YEAR = 2023
_CHARACTERS = 48_000
_PARAGRAPHS = 6
"""In one note of the full report that holds no evidence."""
_TERMS = 7
"""The note with the terms, as in the published case."""
_FAR, _NEAR = 31, 9
"""The note with the rest of the evidence, in the full and in the short report."""

PRINCIPAL, RATE, FEES = 750, Decimal("4.0"), Decimal("2.4")
"""The bond: $ million, percent a year, $ million."""
HALF_YEAR = PRINCIPAL * RATE / 100 / 2

DEBT, DEBT_RATE = 9_046_154, 10
"""The debt: dollars, percent of simple interest a year."""
_DUE, _EXTENDED = (2022, 7), (2023, 8)
MONTHS = 12 * (_EXTENDED[0] - _DUE[0]) + _EXTENDED[1] - _DUE[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    """What is asked, and the notes around it."""

    question: str
    answer: str
    terms: str
    """Heading and text of note 7."""
    rest: str
    """Heading and text of the second note that the answer needs."""
    near_miss: str
    """The like of another company."""


def _bond(report: Report) -> _Case:
    company, other, year = report.company, report.names.company(), report.year
    return _Case(
        question=f"What did the senior notes cost {company} in their first year in total, counting the issuance fees "
        "in full as paid and the interest of the whole first year?",
        answer=f"${2 * HALF_YEAR + FEES:.1f} million",
        terms=f"Senior notes. On April 15, {year}, {company} issued ${PRINCIPAL} million of {RATE}% senior notes due "
        f"in {year + 10}. Interest of ${HALF_YEAR:.1f} million is paid every six months, beginning on October 15, "
        f"{year}. The notes are unsecured.",
        rest=f"Issuance fees. {company} paid ${FEES} million in fees to issue the senior notes of Note {_TERMS}. In "
        "the accounts, the fees are amortized evenly over the ten years to maturity.",
        near_miss=f"Notes of associates. {other} issued $600 million of 5.5% notes and paid $3.1 million in fees. Its "
        "interest is paid once a year.",
    )


def _debt(report: Report) -> _Case:
    company, other, lender = report.company, report.names.company(), f"{report.names.city()} Bank"
    interest = round(Fraction(DEBT * DEBT_RATE * MONTHS, 100 * 12))
    return _Case(
        question=f"How much interest, in dollars, does the term loan of {company} bear over its extension, from the "
        "original to the extended maturity? Count whole months and round to whole dollars.",
        answer=f"${interest:,}",
        terms=f"Term loan. {company} owes {lender} ${DEBT:,} under a term loan. The loan bears simple interest of "
        f"{DEBT_RATE}% a year, which is not compounded. It was originally due in {_month(_DUE)}.",
        rest=f"Amendments. Before it fell due, {lender} agreed to extend the term loan of Note {_TERMS} to "
        f"{_month(_EXTENDED)}. The principal and the rate of interest did not change.",
        near_miss=f"Loans to associates. {other} owes $6,250,000 at 8% a year. Its loan was extended from "
        f"{_month(_DUE)} to January 2024.",
    )


def _month(date: tuple[int, int]) -> str:
    return f"{month_name[date[1]]} {date[0]}"


_MAKERS: dict[str, Callable[[Report], _Case]] = {"bond": _bond, "debt": _debt}
CASES = tuple(_MAKERS)


def case_study(name: str, *, short: bool = False) -> Example:
    """One case with its document; ``metadata`` says which version it is and where the evidence lies.

    Raises:
        ValueError: there is no such case.
    """
    if name not in _MAKERS:
        raise ValueError(f"{name!r} is no case study: use one of {', '.join(CASES)}")
    rng = Random(f"case/{name}")
    report = Report(rng, Shape(_CHARACTERS, None, 0))
    report.year = _YEAR
    case = _MAKERS[name](report)
    context = _short(report, case) if short else _full(report, case, rng)
    version = "short" if short else "full"
    places = [(context.index(text), context.index(text) + len(text)) for text in (case.terms, case.rest)]
    return Example(
        id=f"case-{name}-{version}",
        source="case",
        domain="math",
        answer_type="number",
        context=context,
        question=case.question,
        answers=(case.answer,),
        document_id=f"case-{name}-{version}",
        metadata={"case": name, "version": version, "evidence": [list(place) for place in places]},
    )


def _short(report: Report, case: _Case) -> str:
    return "\n\n".join(
        (
            f"{report.company}: annual report for {report.year}, excerpt",
            f"Note {_TERMS}. {case.terms}",
            f"Note {_TERMS + 1}. {case.near_miss}",
            f"Note {_NEAR}. {case.rest}",
        )
    )


def _full(report: Report, case: _Case, rng: Random) -> str:
    special = {_TERMS: case.terms, _TERMS + 1: case.near_miss, _FAR: case.rest}
    parts = [
        f"{report.company}: annual report for {report.year}",
        f"{report.company} holds interests in the companies named below. These notes are part of the accounts.",
    ]
    number, length = 0, 0
    while length < _CHARACTERS or number < _FAR:
        number += 1
        note = special.get(number) or _holdings(report, rng)
        parts.append(f"Note {number}. {note}")
        length += len(parts[-1])
    return "\n\n".join(parts)


def _holdings(report: Report, rng: Random) -> str:
    return "\n\n".join(("Holdings.", *(report.filler(rng).text for _ in range(_PARAGRAPHS))))


def longest_that_fits(tokenizer: Any, name: str, max_tokens: int, form: str) -> Example | None:
    """The full case where its prompt has at most ``max_tokens``, else the short one, or ``None``: neither is ever cut.

    Args:
        form: Form of the answer, as in ``data.prompt_form``.

    Raises:
        ValueError: there is no such case.
    """
    for short in (False, True):
        case = with_form(case_study(name, short=short), form)
        if prompt_tokens(tokenizer, case) <= max_tokens:
            return case
    return None
