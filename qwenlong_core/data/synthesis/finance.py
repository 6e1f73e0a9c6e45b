"""Financial reports with a question whose answer is a number (domain ``math``).

The easiest forms look up one figure; all others need figures from several places in the report. The report also offers
the figures that a hasty reader would take instead: another year, another line, another company, or half a year's
interest where the whole year's is asked for.
"""

from __future__ import annotations

from random import Random

from qwenlong_core.data.synthesis.document import Block, Draft, Fact, Kind, Shape, choose_kind
from qwenlong_core.data.synthesis.report import Report, million, possessive, text

_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip


def _figure(report: Report) -> Draft:
    years, company = (report.year - 1, report.year), report.company
    values = report.figures(years)
    year = report.rng.choice(years)
    evidence, sentences = _year_by_year(report, values)
    return report.draft(
        "figure",
        1,
        evidence,
        question=f"What {_was(report.line)} {possessive(company)} {report.line} in {year}?",
        answer=million(values[year]),
        work=f"{' '.join(sentences)} The question asks about {year}: {million(values[year])}.",
        query={"op": "value", "of": [company, report.line, str(year)]},
    )


def _year_of(report: Report) -> Draft:
    years, company = (report.year - 1, report.year), report.company
    values = report.figures(years)
    year = report.rng.choice(years)
    evidence, sentences = _year_by_year(report, values)
    return report.draft(
        "year_of",
        1,
        evidence,
        question=f"In which year did {company} report {report.line} of {million(values[year])}?",
        answer=str(year),
        work=f"{' '.join(sentences)} The question asks about {million(values[year])}: {year}.",
        query={"op": "year_of", "of": [company, report.line], "years": [str(y) for y in years], "value": values[year]},
    )


def _year_by_year(report: Report, values: dict[int, float]) -> tuple[list[Block], list[str]]:
    """The line asked about, and a sentence per year. A short report states these, so that a solution can quote them.

    A solution quotes both and then says which is asked for: small models do not learn to stop at the right one.
    """
    company, line = report.company, report.line
    first, *later = values
    sentences = [f"In {first}, {company} reported {line} of {million(values[first])}."]
    sentences += [f"In {year}, the figure was {million(values[year])}." for year in later]
    if not report.shape.is_short:
        return report.over_years(values), sentences
    facts = tuple(Fact(company, line, value, str(year)) for year, value in values.items())
    return [Block(" ".join(sentences), facts)], sentences


def _was(line: str) -> str:
    return "were" if line.endswith("s") else "was"


def _change(report: Report) -> Draft:
    y0, y1, company = report.year - 1, report.year, report.company
    before, after = report.figures((y0, y1)).values()
    verb, sign = ("increase", 1) if after > before else ("decrease", -1)
    high, low = max(before, after), min(before, after)
    return report.draft(
        "change",
        2,
        report.over_years({y0: before, y1: after}),
        question=f"By how much did {possessive(company)} {report.line} {verb} from {y0} to {y1}?",
        answer=million(high - low),
        work=f"{text(high)} - {text(low)} = {text(high - low)}.",
        query={
            "op": "difference",
            "sign": sign,
            "of": [[company, report.line, str(y1)], [company, report.line, str(y0)]],
        },
    )


def _percent_change(report: Report) -> Draft:
    # A multiple of 20 and a percentage in steps of 5 give a whole change.
    before = report.figure(step=20)
    percent = report.rng.choice([5, 10, 15, 20, 25, 30, 35, 40, 45, 55, 60, 65, 70, 75, 80])
    verb, sign = report.rng.choice([("increase", 1), ("decrease", -1)])
    after = before + sign * before * percent // 100
    y0, y1, company = report.year - 1, report.year, report.company
    return report.draft(
        "percent_change",
        2,
        report.over_years({y0: before, y1: after}),
        question=f"By what percentage did {possessive(company)} {report.line} {verb} from {y0} to {y1}?",
        answer=f"{percent}%",
        work=f"The change is {text(abs(after - before))}. {text(abs(after - before))} / {text(before)} = {percent}%.",
        query={
            "op": "percent",
            "sign": sign,
            "of": [[company, report.line, str(y1)], [company, report.line, str(y0)]],
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
        question=f"What {_was(line)} {possessive(company)} {line} in {year} as a percentage of its {report.line}?",
        answer=f"{percent}%",
        work=f"{text(part)} / {text(whole)} = {percent}%.",
        query={"op": "share", "of": [[company, line, str(year)], [company, report.line, str(year)]]},
    )


def first_year_cost(report: Report, principal: float, rate: float, issue_cost: float) -> Draft:
    """Issue costs plus the first year's interest of notes that pay twice a year.

    The trap is to take one half-yearly payment for the year's interest.

    Args:
        principal: face value of the notes in $ million.
        rate: interest in percent a year.
        issue_cost: in $ million.
    """
    company = report.company
    # Rounded, since 0.1 + 0.2 must not print as 0.30000000000000004.
    half = round(principal * rate / 100 / 2, 6)
    year = round(2 * half, 6)
    total = round(issue_cost + year, 6)
    notes = Block(
        f"{company} issued {million(principal)} in notes. Interest of {million(half)} is due every six months.",
        (Fact(company, "note principal", principal), Fact(company, "half-yearly interest", half)),
    )
    issue = Block(
        f"{company} paid {million(issue_cost)} in issue costs for the notes.",
        (Fact(company, "issue costs", issue_cost),),
    )
    other = report.names.company()
    paid = report.figure()
    misses = [Block(f"{other} paid {million(paid)} in issue costs for its bonds.", (Fact(other, "issue costs", paid),))]
    return report.draft(
        "first_year_cost",
        3,
        [notes, issue],
        question=f"What do the notes cost {company} in the first year, including issue costs and interest?",
        answer=million(total),
        work=f"Interest for the year is 2 x {text(half)} = {text(year)}. "
        f"With issue costs, {text(year)} + {text(issue_cost)} = {text(total)}.",
        query={"op": "first_year_cost", "company": company},
        distractors=misses,
    )


def _random_first_year_cost(report: Report) -> Draft:
    principal = report.figure(step=100) if not report.shape.is_short else report.rng.choice([100, 200, 300])
    return first_year_cost(report, principal, report.rng.choice([2, 4, 6, 8]), report.rng.randint(1, 9))


def _annual_interest(report: Report) -> Draft:
    company, half = report.company, report.rng.randint(2, 48)
    notes = Block(
        f"{company} pays interest of {million(half)} on its notes every June and again every December.",
        (Fact(company, "half-yearly interest", half),),
    )
    other, paid = report.names.company(), report.rng.randint(2, 48)
    misses = [
        Block(
            f"{other} pays interest of {million(paid)} on its notes once a year.",
            (Fact(other, "yearly interest", paid),),
        )
    ]
    return report.draft(
        "annual_interest",
        2,
        [notes],
        question=f"How much interest does {company} pay on its notes in a full year?",
        answer=million(2 * half),
        work=f"Interest is paid twice a year. 2 x {half} = {2 * half}.",
        query={"op": "annual_interest", "company": company},
        distractors=misses,
    )


def _mixed_scale(report: Report) -> Draft:
    company, year = report.company, report.year
    whole = report.rng.randint(2, 9) if report.shape.is_short else report.rng.randint(12, 480)
    thousands = 100 * (report.rng.randint(1, 9) if report.shape.is_short else report.rng.randint(11, 99))
    total = round(whole + thousands / 1_000, 6)
    blocks = [
        Block(
            f"{company} received orders worth {million(whole)} from the north in {year}.",
            (Fact(company, "orders north, $ million", whole, str(year)),),
        ),
        Block(
            f"{company} received orders worth ${text(thousands)} thousand from the south in {year}.",
            (Fact(company, "orders south, $ thousand", thousands, str(year)),),
        ),
    ]
    return report.draft(
        "mixed_scale",
        3,
        blocks,
        question=f"What was the total value of {possessive(company)} orders from the north and the south in {year}?",
        answer=million(total),
        work=f"{text(thousands)} thousand is {text(thousands / 1_000)} million. "
        f"{whole} + {text(thousands / 1_000)} = {text(total)}.",
        query={"op": "mixed_scale", "company": company, "year": str(year)},
    )


def extension_interest(report: Report, debt: float, rate: float, start: tuple[int, int], months: int) -> Draft:
    """Simple interest over the months by which a debt was extended.

    Args:
        debt: in dollars.
        rate: interest in percent a year.
        start: year, and month counted from 0, in which the debt was due.
        months: length of the extension.
    """
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
        f"The debt of {company}, originally due in {begins}, was extended to {ends}.",
        (Fact(company, "due month", begins), Fact(company, "extended month", ends)),
    )
    other = report.names.company()
    later = f"{_MONTHS[(end + 5) % 12]} {(end + 5) // 12}"
    misses = [
        Block(
            f"The debt of {other}, originally due in {begins}, was extended to {later}.",
            (Fact(other, "due month", begins), Fact(other, "extended month", later)),
        )
    ]
    monthly = round(debt * rate / 100 / 12, 2)
    return report.draft(
        "extension_interest",
        4,
        [debt_block, extended],
        question=f"How much interest, in dollars, does the debt of {company} bear over the extension?",
        answer=f"${interest:,}",
        work=f"The extension is {months} months. {text(rate)}% of {text(debt)} is {text(round(debt * rate / 100, 2))}"
        f" a year, {text(monthly)} a month. {months} x {text(monthly)} = {interest:,}.",
        query={"op": "extension_interest", "company": company},
        distractors=misses,
    )


def _random_extension(report: Report) -> Draft:
    short = report.shape.is_short
    rate = report.rng.choice([5, 6, 8, 10])
    # A multiple of 1,200 bears a whole number of dollars a month.
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
            f"Loan {name} to {company} is {million(size)} at {rate}% a year.",
            (Fact(company, f"loan {name} amount", size), Fact(company, f"loan {name} rate", rate)),
        )
        for name, size, rate in (("A", a, low), ("B", b, low + gap))
    ]
    products = f"{text(a)} x {low} = {text(a * low)}, {text(b)} x {low + gap} = {text(b * (low + gap))}"
    return report.draft(
        "weighted_rate",
        4,
        blocks,
        question=f"What is the weighted average annual interest rate on Loans A and B to {company}, in percent?",
        answer=f"{text(weighted)}%",
        work=f"{products}. {text(a * low + b * (low + gap))} / {text(a + b)} = {text(weighted)}%.",
        query={"op": "weighted_rate", "company": company},
    )


KINDS: dict[str, Kind] = {
    "figure": Kind(1, 1, _figure),
    "year_of": Kind(1, 1, _year_of),
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
