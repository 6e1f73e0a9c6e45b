"""Each gold that is a number is paid in every surface form of it, and in no corrupted one."""

import json
import os
import random
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from qwenlong_core.records import Example
from qwenlong_core.rewards.hybrid import score_text
from qwenlong_core.rewards.number.digits import parse_digits
from qwenlong_core.rewards.number.scales import FACTORS, scales_asked

FOLDER = os.environ.get("QWENLONG_REAL_DATA")
SCALES = {"thousand": 3, "million": 6, "billion": 9, "percent": -2}
_GOLD = re.compile(r"(?P<open>\(?)(?P<sign>-?)(?P<currency>(?:US|A)?[$€£]?)(?P<digits>[0-9][0-9.,]*)\)?(?P<rest>.*)")


def example(gold: str, scale: str | None = None, question: str = "", context: str = "") -> Example:
    metadata = {"answer_scale": scale} if scale else {}
    return Example(
        id=f"{gold}|{scale}",
        source="t",
        domain="math",
        answer_type="number",
        context=context,
        question=question,
        answers=(gold,),
        metadata=metadata,
    )


def paid(answer: str, case: Example) -> bool:
    return score_text(case, f"<think>Some.</think>Therefore, the answer is {answer}.", 0.0015).score.value == 1.0


def surface_forms(sign: str, currency: str, digits: str, tail: str) -> list[str]:
    """The number in 20 ways; ``tail`` is its scale or unit."""
    number = Decimal(digits.replace(",", ""))
    grouped, whole = f"{number:,}", f"{sign}{currency}{digits}{tail}"
    forms = [
        whole,
        f"about {whole}",
        f"**{whole}**",
        f"\\boxed{{{whole}}}",
        f"approximately {whole} in total",
        f"{sign}{currency}{grouped}{tail}",
        f"{sign}{currency}{number}{tail}",
        f"${{}}{whole}$" if not currency else whole,
        f"{sign}{currency}{number:e}{tail}",
        f"{sign}{currency}{number}{tail} in 2021",
        f"{whole} (see Note 7)",
        f"{whole}, which is the total",
        f"x = {whole}",
        f"{whole} from 2020 to 2021",
        f"the total of {whole}",
        f"{whole} for the year ended December 31, 2021",
        f"{whole}, as shown in Table 3",
        f"{whole}, not 98765{tail}",
        f"{whole}, i.e. {sign}{currency}{grouped}{tail}",
        whole.replace("-", "−"),
        f"\\text{{{whole}}}",
        f"{'minus ' if sign else ''}{currency}{grouped}{tail}",
    ]
    # Beside another year, what may be a year is one of two.
    is_year = not tail and not currency and digits.isdigit() and 1900 <= number < 2100
    return [form for form in forms if not (is_year and "202" in form)]


def corrupted_forms(sign: str, currency: str, digits: str, tail: str, case: Example) -> list[str]:
    """Another sign, another scale, several numbers, a computation, another currency."""
    bare, other = f"{currency}{digits}", "" if sign else "-"
    forms = [
        f"{other}{bare}{tail}",
        f"{'minus ' if not sign else ''}{bare}{tail}",
        f"{sign}{bare}{tail} or 98765{tail}",
        f"at least {sign}{bare}{tail}",
        f"twice {sign}{bare}{tail}",
        f"half of {sign}{bare}{tail}",
        f"not {sign}{bare}{tail}",
        f"{sign}{currency}1{digits}{tail}",
        f"{sign}{bare}0{tail}" if "." not in digits else f"{sign}{currency}9{digits}{tail}",
        f"{sign}{bare} zillion",
    ]
    own = case.metadata.get("answer_scale")
    if not tail:
        wrong = [
            s
            for s in ("thousand", "million", "billion", "percent", "lakh", "Mrd.", "dozen", "万", "(in thousands)")
            if s != own
            and {"Mrd.": "billion"}.get(s, s) not in {own, *scales_asked(case.question)}
            and not (own == "thousand" and "thousands" in s)
        ]
        forms += [f"{sign}{bare} {s}" for s in wrong] + [f"{sign}{bare} \\text{{ {s}}}" for s in wrong[:4]]
        forms += [f"\\boxed{{{sign}{bare}}} {s}" for s in wrong[:3]]
    if currency:
        forms += [f"{sign}{c}{digits}{tail}" for c in ("€", "CHF ", "HK$", "₹") if c != currency]
    return forms


def check(case: Example, others: list[str]) -> list[str]:
    """What is wrong with the scores of a gold, as texts."""
    gold = case.answers[0]
    match = _GOLD.fullmatch(gold)
    if match is None or parse_digits(match["digits"]) is None:
        return [] if paid(gold, case) else [f"{gold!r} itself is refused"]
    if not Decimal(match["digits"].replace(",", "")):
        return [] if paid(gold, case) else [f"{gold!r} itself is refused"]
    sign = "-" if match["sign"] or match["open"] else ""
    parts = (sign, match["currency"], match["digits"], match["rest"])
    wrong = [f"refused: {form}" for form in surface_forms(*parts) if not paid(form.replace("${}", "$"), case)]
    return wrong + [f"paid: {form}" for form in [*corrupted_forms(*parts, case), *others] if paid(form, case)]


def generated() -> Iterator[Example]:
    chance = random.Random(7)
    for _ in range(60):
        size = Decimal(chance.randrange(2, 10 ** chance.randrange(1, 9))).scaleb(-chance.choice((0, 0, 1, 2)))
        sign, currency = chance.choice(("", "-")), chance.choice(("", "", "$", "US$", "€"))
        # No gold is money and percent at once.
        separate = (None, None, "thousand", "million", *(("percent",) if not currency else ()))
        yield example(f"{sign}{currency}{size:,}", chance.choice(separate))
        yield example(f"{sign}{currency}{size}{chance.choice((' million', ' billion', ' thousand'))}")
        yield example(f"{sign}{size}%")


@pytest.mark.parametrize("case", list(generated()), ids=lambda case: case.id)
def test_generated_golds(case: Example) -> None:
    assert check(case, []) == []


def real_golds() -> Iterator[Example]:
    for path in sorted(Path(FOLDER or ".").glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                if row["domain"] == "math" and not row.get("choices"):
                    for gold in row["answers"]:
                        yield example(gold, row.get("answer_scale") or None, row["question"], row["context"])


def numbers_of_the_document(case: Example) -> list[str]:
    """Up to five numbers of the document that are neither the gold nor the gold in its scale."""
    gold = abs(parse_digits(re.sub(r"[^0-9.,]", "", case.answers[0]).rstrip(".,")) or Decimal(0))
    scale = FACTORS.get(str(case.metadata.get("answer_scale")), Decimal(1))
    right = [gold * factor for factor in (1, scale, *(FACTORS[s] for s in SCALES))]
    found = list(dict.fromkeys(re.findall(r"(?<![\w.,])[0-9][0-9,]*(?:\.[0-9]+)?(?![\w,])", case.context)))
    values = [(text, parse_digits(text)) for text in random.Random(3).sample(found, min(20, len(found)))]
    return [text for text, value in values if value and all(abs(value - r) > abs(r) * Decimal("0.01") for r in right)][
        :5
    ]


@pytest.mark.skipif(not FOLDER, reason="QWENLONG_REAL_DATA names no folder")
def test_golds_of_real_documents() -> None:
    cases = list(real_golds())
    assert len(cases) >= 200
    wrong = {case.answers[0]: found for case in cases if (found := check(case, numbers_of_the_document(case)))}
    assert wrong == {}
