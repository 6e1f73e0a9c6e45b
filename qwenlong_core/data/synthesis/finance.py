"""Financial reports with a question whose answer is a number (domain ``math``).

Every form of question needs figures from several places of the report, and offers the figures a
hasty reader would take instead: another year, another line, another company, interest for half a
year where the whole year is asked.
"""

from __future__ import annotations

from random import Random

from qwenlong_core.data.synthesis.document import Block, Draft, Fact, Kind, Shape, choose_kind
from qwenlong_core.data.synthesis.report import Report, million, text

_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)


def _change(report: Report) -> Draft:
    y0, y1, subject = report.year - 1, report.year, f"the {report.line} of {report.company}"
    before, after = report.figures((y0, y1)).values()
    verb, sign = ("grow", 1) if after > before else ("fall", -1)
    answer = million(abs(after - before))
    high, low = max(before, after), min(before, after)
    return report.draft(
        "change",
        2,
        report.over_years({y0: before, y1: after}),
        f"By how much did {subject} {verb} from {y0} to {y1}?",
        answer,
        f"{text(high)} - {text(low)} = {text(high - low)}.",
        {
            "op": "difference",
            "sign": sign,
            "of": [[report.company, report.line, str(y1)], [report.company, report.line, str(y0)]],
        },
    )


def _percent_change(report: Report) -> Draft:
    before = report.figure(step=20)
    percent = report.rng.choice([5, 10, 15, 20, 25, 30, 35, 40, 45, 55, 60, 65, 70, 75, 80])
    sign = report.rng.choice([1, -1])
    after = before + sign * before * percent // 100
    y0, y1 = report.year - 1, report.year
    return report.draft(
        "percent_change",
        2,
        report.over_years({y0: before, y1: after}),
        f"By what percentage did the {report.line} of {report.company} {'grow' if sign > 0 else 'fall'} "
        f"from {y0} to {y1}?",
        f"{percent}%",
        f"{text(abs(after - before))} / {text(before)} = {percent}%.",
        {
            "op": "percent",
            "sign": sign,
            "of": [[report.company, report.line, str(y1)], [report.company, report.line, str(y0)]],
        },
    )


def _share(report: Report) -> Draft:
    whole, percent = report.figure(step=20), report.rng.choice([5, 10, 15, 20, 25, 30, 35, 40, 45, 55, 60])
    part, year, line = whole * percent // 100, report.year, report.other_lines.pop(0)
    company = report.company
    return report.draft(
        "share",
        2,
        [report.stated(company, line, {year: part}), report.stated(company, report.line, {year: whole})],
        f"What percentage of its {report.line} was the {line} of {company} in {year}?",
        f"{percent}%",
        f"{text(part)} / {text(whole)} = {percent}%.",
        {"op": "share", "of": [[company, line, str(year)], [company, report.line, str(year)]]},
    )


def first_year_cost(report: Report, principal: float, rate: float, issue_cost: float) -> Draft:
    """Issue cost plus the first year's interest of notes that pay twice a year.

    The trap is to take one half-yearly payment for the year's interest.
    """
    company = report.company
    half = round(principal * rate / 100 / 2, 6)
    total = round(issue_cost + 2 * half, 6)
    notes = Block(
        f"{company} issued notes of {million(principal)}. Interest of {million(half)} is due every six months.",
        (Fact(company, "note principal", principal), Fact(company, "half-yearly interest", half)),
    )
    issue = Block(
        f"{company} paid issue costs of {million(issue_cost)} on the notes.",
        (Fact(company, "issue costs", issue_cost),),
    )
    other = report.names.company()
    paid = report.figure()
    misses = [Block(f"{other} paid issue costs of {million(paid)} on its bonds.", (Fact(other, "issue costs", paid),))]
    return report.draft(
        "first_year_cost",
        3,
        [notes, issue],
        f"What do the notes cost {company} in their first year, issue costs and interest together?",
        million(total),
        f"Interest is 2 x {text(half)} = {text(round(2 * half, 6))}. "
        f"{text(round(2 * half, 6))} + {text(issue_cost)} = {text(total)}.",
        {"op": "first_year_cost", "company": company},
        misses,
    )


def _random_first_year_cost(report: Report) -> Draft:
    principal = report.figure(step=100) if not report.shape.is_short else report.rng.choice([100, 200, 300])
    return first_year_cost(report, principal, report.rng.choice([2, 4, 6, 8]), report.rng.randint(1, 9))


def _annual_interest(report: Report) -> Draft:
    company, half = report.company, report.rng.randint(2, 48)
    notes = Block(
        f"On its notes {company} pays interest of {million(half)} in June and again in December of each year.",
        (Fact(company, "half-yearly interest", half),),
    )
    other, paid = report.names.company(), report.rng.randint(2, 48)
    misses = [
        Block(
            f"On its notes {other} pays interest of {million(paid)} once a year.",
            (Fact(other, "yearly interest", paid),),
        )
    ]
    return report.draft(
        "annual_interest",
        2,
        [notes],
        f"How much interest do the notes cost {company} in a full year?",
        million(2 * half),
        f"It pays twice a year. 2 x {half} = {2 * half}.",
        {"op": "annual_interest", "company": company},
        misses,
    )


def _mixed_scale(report: Report) -> Draft:
    company, year = report.company, report.year
    whole = report.rng.randint(2, 9) if report.shape.is_short else report.rng.randint(12, 480)
    thousands = 100 * (report.rng.randint(1, 9) if report.shape.is_short else report.rng.randint(11, 99))
    total = round(whole + thousands / 1_000, 6)
    blocks = [
        Block(
            f"Orders of {company} from the north came to {million(whole)} in {year}.",
            (Fact(company, "orders north, $ million", whole, str(year)),),
        ),
        Block(
            f"Orders of {company} from the south came to ${text(thousands)} thousand in {year}.",
            (Fact(company, "orders south, $ thousand", thousands, str(year)),),
        ),
    ]
    return report.draft(
        "mixed_scale",
        3,
        blocks,
        f"What did the orders of {company} from north and south come to together in {year}?",
        million(total),
        f"{text(thousands)} thousand is {text(thousands / 1_000)} million. "
        f"{whole} + {text(thousands / 1_000)} = {text(total)}.",
        {"op": "mixed_scale", "company": company, "year": str(year)},
    )


def extension_interest(
    report: Report, debt: float, rate: float, start: tuple[int, int], months: int, answer: str | None = None
) -> Draft:
    """Simple interest over the months by which a debt was extended."""
    company, (year, month) = report.company, start
    end = year * 12 + month + months
    begins = f"{_MONTHS[month]} {year}"
    ends = f"{_MONTHS[end % 12]} {end // 12}"
    interest = round(debt * rate / 100 / 12 * months)
    debt_block = Block(
        f"{company} owes ${text(debt)}. The debt bears simple interest of {text(rate)}% a year.",
        (Fact(company, "debt", debt), Fact(company, "debt rate", rate)),
    )
    extended = Block(
        f"The debt of {company}, due in {begins}, was extended to {ends}.",
        (Fact(company, "due month", begins), Fact(company, "extended month", ends)),
    )
    other = report.names.company()
    later = f"{_MONTHS[(end + 5) % 12]} {(end + 5) // 12}"
    misses = [
        Block(
            f"The debt of {other}, due in {begins}, was extended to {later}.",
            (Fact(other, "due month", begins), Fact(other, "extended month", later)),
        )
    ]
    monthly = round(debt * rate / 100 / 12, 2)
    return report.draft(
        "extension_interest",
        4,
        [debt_block, extended],
        f"How much interest in dollars does the debt of {company} bear over the months of its extension?",
        answer or f"${interest:,}",
        f"{months} months. {text(rate)}% of {text(debt)} is {text(round(debt * rate / 100, 2))} a year, "
        f"{text(monthly)} a month. {months} x {text(monthly)} = {interest:,}.",
        {"op": "extension_interest", "company": company},
        misses,
    )


def _random_extension(report: Report) -> Draft:
    short = report.shape.is_short
    rate = report.rng.choice([5, 6, 8, 10])
    debt = 1200 * report.rng.randint(1, 9) if short else 1200 * report.rng.randint(50, 8_000)
    months = report.rng.randint(2, 9) if short else report.rng.randint(5, 40)
    return extension_interest(report, debt, rate, (report.year, report.rng.randrange(12)), months)


def _weighted_rate(report: Report) -> Draft:
    low, gap = report.rng.randint(1, 6), report.rng.choice([1, 2, 3, 4])
    if report.shape.is_short:
        a, b = report.rng.choice([(10, 30), (20, 30), (10, 40), (20, 60), (40, 10), (30, 20), (30, 10), (60, 20)])
    else:
        # Whole percents of a round sum, so that the weighted rate ends after two decimals.
        whole, share = report.figure(step=100), report.rng.choice([10, 20, 25, 30, 40, 60, 70, 75, 80, 90])
        a, b = whole * share // 100, whole * (100 - share) // 100
    company = report.company
    weighted = round((a * low + b * (low + gap)) / (a + b), 2)
    blocks = [
        Block(
            f"Loan {name} of {company} is {million(size)} at {rate}% a year.",
            (Fact(company, f"loan {name} amount", size), Fact(company, f"loan {name} rate", rate)),
        )
        for name, size, rate in (("A", a, low), ("B", b, low + gap))
    ]
    products = f"{text(a)} x {low} = {text(a * low)}, {text(b)} x {low + gap} = {text(b * (low + gap))}"
    return report.draft(
        "weighted_rate",
        4,
        blocks,
        f"What is the weighted average interest rate of loans A and B of {company}, in percent a year?",
        f"{text(weighted)}%",
        f"{products}. {text(a * low + b * (low + gap))} / {text(a + b)} = {text(weighted)}%.",
        {"op": "weighted_rate", "company": company},
    )


KINDS: dict[str, Kind] = {
    "change": Kind(2, 2, _change),
    "percent_change": Kind(2, 2, _percent_change),
    "share": Kind(2, 2, _share),
    "annual_interest": Kind(2, 1, _annual_interest),
    "mixed_scale": Kind(3, 1, _mixed_scale),
    "first_year_cost": Kind(3, 2, _random_first_year_cost),
    "weighted_rate": Kind(4, 1, _weighted_rate),
    "extension_interest": Kind(4, 2, _random_extension),
}


def draft(rng: Random, shape: Shape) -> Draft:
    """One financial report with its question."""
    return choose_kind(KINDS, shape, rng).make(Report(rng, shape))


def bond_case(rng: Random, shape: Shape) -> Draft:
    """Notes of $490 million at 6%, paid half-yearly, and issue costs of $3 million: $32.4 million in the
    first year. One half-yearly payment taken for the year's interest gives $17.7 million."""
    return first_year_cost(Report(rng, shape), 490, 6, 3)


def extension_case(rng: Random, shape: Shape) -> Draft:
    """A debt of $9,046,154 at 10% a year, extended from July 2022 to August 2023: 13 months, $980,000."""
    return extension_interest(Report(rng, shape), 9_046_154, 10, (2022, 6), 13)
