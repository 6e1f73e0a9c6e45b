"""The grammar of numbers: the code's tables are those of ``docs/rewards.md``, and every word in them is read."""

import re
from decimal import Decimal
from pathlib import Path

import pytest

from qwenlong_core.rewards.number import currencies, scales, units, words
from qwenlong_core.rewards.number.equal import same_quantity
from qwenlong_core.rewards.number.quantity import Quantity
from qwenlong_core.rewards.number.read import read_quantity

DOCS = (Path(__file__).parents[3] / "docs" / "rewards.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| \*\*(.+?)\*\* \| (.+) \|$", DOCS, re.MULTILINE)
KINDS = {
    "about": words.ABOUT,
    "grammar": words.LEADING,
    "counted": words.COUNTED,
    "alternative": words.SEVERAL | words.OR,
    "bound": words.BOUND,
    "sign in words": words.DIRECTION,
    "minus": words.SIGNS,
    "arithmetic": words.ARITHMETIC,
    "reason": words.REASON,
    "contrast": words.CONTRAST,
    "doubt": words.DOUBT - words.SEVERAL - words.OR,
    "reference": words.REFERENCE,
    "period begins": words.PERIOD,
    "period": words.DATE,
    "period of itself": words.ANCHOR,
    "denomination": words.DENOMINATION,
    "rounding": words.ROUNDED,
}


def cell(names: object) -> str:
    return ", ".join(f"`{name}`" for name in names)  # type: ignore[attr-defined]


def expected() -> list[tuple[str, str]]:
    rows = [(name, f"{factor:f} | {cell(scales.WORDS[name])}") for name, factor in scales.FACTORS.items()]
    rows += [
        (code.upper(), cell(name.strip() for name in names.split(","))) for code, names in currencies.CODES.items()
    ]
    rows += [
        (shared, f"{sure.upper()} | {perhaps.upper()}")
        for table in (currencies.SHARED, currencies.SUBUNITS)
        for shared, (sure, perhaps) in table.items()
    ]
    rows += [
        (name, f"{unit.dimension} | {unit.factor:f} {unit.base} | {cell(units.WORDS[name])}")
        for name, unit in units.UNITS.items()
    ]
    return rows + [(kind, cell(sorted(table))) for kind, table in KINDS.items()]


def test_the_documentation_holds_the_tables_of_the_code() -> None:
    assert expected() == ROWS


def quantity(text: str) -> Quantity:
    reading = read_quantity(text)
    assert reading.quantity is not None and not reading.unknown, (text, reading)
    return reading.quantity


@pytest.mark.parametrize("name", scales.FACTORS)
def test_every_scale_word_is_read_and_counts(name: str) -> None:
    for word in scales.WORDS[name]:
        text = (
            f"{word}7"
            if word in scales.BEFORE_NUMBER
            else f"$7{word[2:]}"
            if word.startswith("$ ")
            else f"7 ({word})"
            if "000" in word
            else f"7 {word}"
        )
        read = quantity(text)
        assert (read.face, read.value) == (7, 7 * scales.FACTORS[name]), text
        assert same_quantity(read, quantity("7"), 0.0015) is False, text


@pytest.mark.parametrize("code", currencies.CODES)
def test_every_way_to_write_a_currency_is_that_currency_and_no_other(code: str) -> None:
    gold = quantity(f"7 {code.upper()}")
    for name in (part.strip() for part in currencies.CODES[code].split(",")):
        read = quantity(f"7 {name}")
        assert same_quantity(read, gold, 0.0) is True, name
        for other in currencies.CODES:
            assert other == code or same_quantity(read, quantity(f"7 {other.upper()}"), 0.0) is False, (name, other)


@pytest.mark.parametrize("name", units.UNITS)
def test_every_way_to_write_a_unit_is_that_unit(name: str) -> None:
    for word in units.WORDS[name]:
        assert quantity(f"7 {word}").unit == name, word


@pytest.mark.parametrize(
    ("answer", "gold", "equal"),
    [  # by hand, from the definitions of the units
        ("1 mile", "1609.344 metres", True),
        ("12 inches", "1 foot", True),
        ("1 lb", "453.59237 g", True),
        ("2 hours", "7200 seconds", True),
        ("18 months", "1.5 years", True),
        ("1 hectare", "10,000 square metres", True),
        ("1 GWh", "1000 MWh", True),
        ("2 weeks", "14 days", True),
        ("2 weeks", "15 days", False),
        ("3 kg", "3 km", False),
        ("30 days", "1 month", None),
        ("1 ton", "1 tonne", None),
        ("1 gallon", "3.785 litres", None),
        ("5 shares", "5 bonds", None),
        ("10 °C", "50 °F", None),
        ("5 km/h", "5 mph", None),
        ("A$5", "$5", None),
        ("US$5", "$5", True),
        ("¥5", "5 yen", True),
        ("¥5", "5 yuan", True),
        ("5 kronor", "SEK 5", None),
        ("5 pesos", "$5", None),
        ("5 pesos", "MXN 5", None),
        ("45 cents", "€0.45", True),
        ("45 pence", "€0.45", False),
    ],
)
def test_units_and_currencies_against_each_other(answer: str, gold: str, equal: bool | None) -> None:
    assert same_quantity(quantity(answer), quantity(gold), 0.0015) is equal
    assert same_quantity(quantity(gold), quantity(answer), 0.0015) is equal or "dollar" in answer + gold or "$" in gold


def test_a_word_of_no_table_is_named() -> None:
    assert read_quantity("7 zillion").unknown == {"zillion"}
    assert read_quantity("7 in the Zurich plant").unknown == {"zurich"}


def test_scales_that_a_question_asks_for() -> None:
    assert scales.scales_asked("What was it, in millions of dollars?") == {"million"}
    assert scales.scales_asked("By what percentage did it grow?") == {"percent"}
    assert scales.scales_asked("How many cents per share?") == {"cent"}
    assert scales.scales_asked("Who founded it in 1990?") == frozenset()
    assert scales.FACTORS[scales.known_scale("million") or ""] == Decimal(10**6)
