"""Financial reports with a question whose answer is a number (domain ``math``).

Every form of question needs figures from several places of the report, and offers the figures a
hasty reader would take instead: another year, another line, another company, interest for half a
year where the whole year is asked.
"""

from __future__ import annotations

from random import Random
from typing import Any

from qwenlong_core.data.prompts import answer_form
from qwenlong_core.data.synthesis.document import Block, Draft, Fact, Kind, Shape, choose_kind
from qwenlong_core.data.synthesis.words import Names

_LINES = (
    "net sales", "operating income", "gross profit", "research costs", "capital spending", "total debt",
    "cash", "inventories", "trade receivables", "pension costs", "tax expense", "marketing costs",
)  # fmt: skip
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December",
)  # fmt: skip

_CLOSERS = (
    "All figures are audited.", "Figures are rounded.", "No dividend was paid.", "Staff numbers were stable.",
    "The board met often.", "The auditor agreed.", "See the other notes.", "Amounts are in US dollars.",
    "Markets remained competitive throughout the period.", "Management expects a steady year.",
    "There were no events after the reporting date.", "The accounts follow the usual standards.",
    "Risks are reviewed by the audit committee every quarter.", "Leases are short.", "Noted.",
    "The group has no significant contingent liabilities at this time.", "Weather had little effect.",
    "Comparative figures were not restated.", "Currency effects were minor.", "Suppliers delivered on time.",
    "Customers paid as agreed.", "Energy prices eased a little towards the end.", "Insurance was renewed.",
    "The annual meeting is held in spring.", "Further details are available on request from the company.",
)  # fmt: skip


def _text(value: float) -> str:
    """A figure as printed in the report: thousands separators, no trailing zeros."""
    return f"{value:,.10g}" if value < 1e10 else f"{value:,.0f}"


def _million(value: float) -> str:
    return f"${_text(value)} million"


class _Report:
    """The company asked about and the figures already given away."""

    def __init__(self, rng: Random, shape: Shape) -> None:
        self.rng, self.shape, self.names = rng, shape, Names(rng)
        self.company = self.names.company()
        self.year = rng.randint(2015, 2024)
        self.line, *self.other_lines = rng.sample(_LINES, 6)

    def figure(self, step: int = 1) -> int:
        """A figure in $ million, of two digits in short documents, a multiple of ``step``."""
        low, high = (20, 99) if self.shape.is_short else (110, 4_900)
        return step * self.rng.randint(-(-low // step), high // step)

    def figures(self, years: tuple[int, ...]) -> dict[int, float]:
        """A line's figures over the years: each within a quarter of the one before, and never equal."""
        values = [self.figure()]
        while len(values) < len(years):
            last = values[-1]
            moved = last + self.rng.choice([-1, 1]) * self.rng.randint(1, max(1, last // 4))
            values.append(max(1, moved))
        return dict(zip(years, values, strict=True))

    def stated(self, company: str, line: str, values: dict[int, float]) -> Block:
        """One sentence, or a table of several years."""
        facts = tuple(Fact(company, line, value, str(year)) for year, value in values.items())
        years = list(values)
        if len(years) > 2 or (len(years) == 2 and not self.shape.is_short and self.rng.random() < 0.5):
            head = f"{line.capitalize()} of {company} ($ million)"
            rows = "\n".join(f"| {year} | {_text(value)} |" for year, value in values.items())
            return Block(f"{head}\n| Year | Amount |\n{rows}", facts)
        listed = " and ".join(f"{_million(value)} in {year}" for year, value in values.items())
        return Block(f"The {line} of {company} {'were' if line[-1] == 's' else 'was'} {listed}.", facts)

    def over_years(self, values: dict[int, float]) -> list[Block]:
        """The line asked about over the years: one sentence, or in long reports a statement a year."""
        if self.shape.is_short:
            return [self.stated(self.company, self.line, values)]
        others = [self.other_lines.pop() for _ in range(2)]
        return [self._statement(year, {self.line: value}, others) for year, value in values.items()]

    def _statement(self, year: int, known: dict[str, float], others: list[str]) -> Block:
        figures = {**known, **{line: self.figure() for line in others}}
        lines = list(figures)
        self.rng.shuffle(lines)
        rows = "\n".join(f"| {line.capitalize()} | {_text(figures[line])} |" for line in lines)
        facts = tuple(Fact(self.company, line, figures[line], str(year)) for line in lines)
        return Block(f"{self.company}, year {year} ($ million)\n| Item | Amount |\n{rows}", facts)

    def near_misses(self) -> list[Block]:
        """In turn other lines of the same company and the same line of other companies."""
        years, lines, blocks = (self.year - 1, self.year), list(self.other_lines), []
        for index in range(self.shape.distractors):
            values = self.figures(years)
            if index % 2 == 0 and lines:
                blocks.append(self.stated(self.company, lines.pop(0), values))
            else:
                blocks.append(self.stated(self.names.company(), self.line, values))
        return blocks

    def filler(self, rng: Random) -> Block:
        company, year = self.names.company(), self.year
        kind = rng.randrange(4)
        if kind == 0:
            return self._two_years(rng, company)
        years = (year - 2, year - 1, year) if kind == 1 else (year - 1, year)
        stated = self.stated(company, rng.choice(_LINES), self.figures(years))
        if kind == 1:
            return stated
        remark = rng.choice(_REMARKS).format(company=company)
        return Block(f"{stated.text}{chr(10) if '|' in stated.text else ' '}{remark}", stated.facts)

    def _two_years(self, rng: Random, company: str) -> Block:
        lines = rng.sample(_LINES, 3)
        years = (self.year - 1, self.year)
        rows, facts = [], []
        for line in lines:
            values = self.figures(years)
            rows.append(f"| {line.capitalize()} | {' | '.join(map(_text, values.values()))} |")
            facts += [Fact(company, line, value, str(year)) for year, value in values.items()]
        head = f"{company}, selected figures ($ million)\n| Item | {years[0]} | {years[1]} |\n"
        return Block(head + "\n".join(rows), tuple(facts))

    def draft(
        self, kind: str, steps: int, evidence: list[Block], question: str, answer: str, work: str, query: dict[str, Any],
        distractors: list[Block] | None = None,
    ) -> Draft:  # fmt: skip
        """``work`` is the reasoning of the trace; short documents state all evidence in one block."""
        misses = [*(distractors or []), *self.near_misses()]
        if self.shape.is_short:
            evidence = [Block(" ".join(b.text for b in evidence), tuple(f for b in evidence for f in b.facts))]
        return Draft(
            domain="math", answer_type="number", kind=kind, steps=steps,
            title=f"{self.company}: annual report {self.year}",
            question=question, answers=(answer,),
            solution=f"<think>{work}</think>\n\n{answer_form('number', answer)}",
            query=query, evidence=tuple(evidence), distractors=tuple(misses[: self.shape.distractors]),
            filler=self.filler, closers=_CLOSERS, prefix="" if self.shape.is_short else "Note {n}. ",
        )  # fmt: skip


_REMARKS = (
    "{company} explains the movement by lower freight rates and by two new customers in the region.",
    "The change at {company} is mostly due to prices, as volumes hardly moved during the period.",
    "The directors of {company} regard this level as sufficient for the plans of the coming year.",
    "At {company} the amount includes items that are not expected to occur again.",
    "A strike at the main plant held {company} back in spring, but most of the loss was made up by autumn.",
    "The auditors of {company} tested a sample of the entries and found no difference that would matter.",
    "{company} intends to move the reporting of this item to the regional units from next year on.",
    "Analysts had expected somewhat less of {company} after the weak figures of its competitors.",
    "The new warehouse of {company} went into service in March and shortened delivery times by a third.",
    "{company} hedges the larger part of its currency exposure and reviews the policy every quarter.",
    "Wages at {company} rose in line with the industry, and the number of staff stayed almost the same.",
    "The figure of {company} is stated before the effect of a contract that was settled after the year's end.",
)


def _change(report: _Report) -> Draft:
    y0, y1, subject = report.year - 1, report.year, f"the {report.line} of {report.company}"
    before, after = report.figures((y0, y1)).values()
    verb, sign = ("grow", 1) if after > before else ("fall", -1)
    answer = _million(abs(after - before))
    high, low = max(before, after), min(before, after)
    return report.draft(
        "change", 2, report.over_years({y0: before, y1: after}),
        f"By how much did {subject} {verb} from {y0} to {y1}?", answer,
        f"{_text(high)} - {_text(low)} = {_text(high - low)}.",
        {"op": "difference", "sign": sign, "of": [[report.company, report.line, str(y1)],
                                                  [report.company, report.line, str(y0)]]},
    )  # fmt: skip


def _percent_change(report: _Report) -> Draft:
    before = report.figure(step=20)
    percent = report.rng.choice([5, 10, 15, 20, 25, 30, 35, 40, 45, 55, 60, 65, 70, 75, 80])
    sign = report.rng.choice([1, -1])
    after = before + sign * before * percent // 100
    y0, y1 = report.year - 1, report.year
    return report.draft(
        "percent_change", 2, report.over_years({y0: before, y1: after}),
        f"By what percentage did the {report.line} of {report.company} {'grow' if sign > 0 else 'fall'} "
        f"from {y0} to {y1}?", f"{percent}%",
        f"{_text(abs(after - before))} / {_text(before)} = {percent}%.",
        {"op": "percent", "sign": sign, "of": [[report.company, report.line, str(y1)],
                                               [report.company, report.line, str(y0)]]},
    )  # fmt: skip


def _share(report: _Report) -> Draft:
    whole, percent = report.figure(step=20), report.rng.choice([5, 10, 15, 20, 25, 30, 35, 40, 45, 55, 60])
    part, year, line = whole * percent // 100, report.year, report.other_lines.pop(0)
    company = report.company
    return report.draft(
        "share", 2, [report.stated(company, line, {year: part}), report.stated(company, report.line, {year: whole})],
        f"What percentage of its {report.line} was the {line} of {company} in {year}?", f"{percent}%",
        f"{_text(part)} / {_text(whole)} = {percent}%.",
        {"op": "share", "of": [[company, line, str(year)], [company, report.line, str(year)]]},
    )  # fmt: skip


def first_year_cost(report: _Report, principal: float, rate: float, issue_cost: float) -> Draft:
    """Issue cost plus the first year's interest of notes that pay twice a year.

    The trap is to take one half-yearly payment for the year's interest.
    """
    company = report.company
    half = round(principal * rate / 100 / 2, 6)
    total = round(issue_cost + 2 * half, 6)
    notes = Block(
        f"{company} issued notes of {_million(principal)}. Interest of {_million(half)} is due every six months.",
        (Fact(company, "note principal", principal), Fact(company, "half-yearly interest", half)),
    )
    issue = Block(f"{company} paid issue costs of {_million(issue_cost)} on the notes.",
                  (Fact(company, "issue costs", issue_cost),))  # fmt: skip
    other = report.names.company()
    paid = report.figure()
    misses = [Block(f"{other} paid issue costs of {_million(paid)} on its bonds.", (Fact(other, "issue costs", paid),))]
    return report.draft(
        "first_year_cost", 3, [notes, issue],
        f"What do the notes cost {company} in their first year, issue costs and interest together?", _million(total),
        f"Interest is 2 x {_text(half)} = {_text(round(2 * half, 6))}. "
        f"{_text(round(2 * half, 6))} + {_text(issue_cost)} = {_text(total)}.",
        {"op": "first_year_cost", "company": company}, misses,
    )  # fmt: skip


def _random_first_year_cost(report: _Report) -> Draft:
    principal = report.figure(step=100) if not report.shape.is_short else report.rng.choice([100, 200, 300])
    return first_year_cost(report, principal, report.rng.choice([2, 4, 6, 8]), report.rng.randint(1, 9))


def _annual_interest(report: _Report) -> Draft:
    company, half = report.company, report.rng.randint(2, 48)
    notes = Block(f"On its notes {company} pays interest of {_million(half)} in June and again in December of each year.",
                  (Fact(company, "half-yearly interest", half),))  # fmt: skip
    other, paid = report.names.company(), report.rng.randint(2, 48)
    misses = [Block(f"On its notes {other} pays interest of {_million(paid)} once a year.",
                    (Fact(other, "yearly interest", paid),))]  # fmt: skip
    return report.draft(
        "annual_interest", 2, [notes], f"How much interest do the notes cost {company} in a full year?",
        _million(2 * half), f"It pays twice a year. 2 x {half} = {2 * half}.",
        {"op": "annual_interest", "company": company}, misses,
    )  # fmt: skip


def _mixed_scale(report: _Report) -> Draft:
    company, year = report.company, report.year
    whole = report.rng.randint(2, 9) if report.shape.is_short else report.rng.randint(12, 480)
    thousands = 100 * (report.rng.randint(1, 9) if report.shape.is_short else report.rng.randint(11, 99))
    total = round(whole + thousands / 1_000, 6)
    blocks = [
        Block(f"Orders of {company} from the north came to {_million(whole)} in {year}.",
              (Fact(company, "orders north, $ million", whole, str(year)),)),
        Block(f"Orders of {company} from the south came to ${_text(thousands)} thousand in {year}.",
              (Fact(company, "orders south, $ thousand", thousands, str(year)),)),
    ]  # fmt: skip
    return report.draft(
        "mixed_scale", 3, blocks, f"What did the orders of {company} from north and south come to together in {year}?",
        _million(total),
        f"{_text(thousands)} thousand is {_text(thousands / 1_000)} million. "
        f"{whole} + {_text(thousands / 1_000)} = {_text(total)}.",
        {"op": "mixed_scale", "company": company, "year": str(year)},
    )  # fmt: skip


def extension_interest(
    report: _Report, debt: float, rate: float, start: tuple[int, int], months: int, answer: str | None = None
) -> Draft:
    """Simple interest over the months by which a debt was extended."""
    company, (year, month) = report.company, start
    end = year * 12 + month + months
    begins = f"{_MONTHS[month]} {year}"
    ends = f"{_MONTHS[end % 12]} {end // 12}"
    interest = round(debt * rate / 100 / 12 * months)
    debt_block = Block(
        f"{company} owes ${_text(debt)}. The debt bears simple interest of {_text(rate)}% a year.",
        (Fact(company, "debt", debt), Fact(company, "debt rate", rate)),
    )
    extended = Block(
        f"The debt of {company}, due in {begins}, was extended to {ends}.",
        (Fact(company, "due month", begins), Fact(company, "extended month", ends)),
    )
    other = report.names.company()
    later = f"{_MONTHS[(end + 5) % 12]} {(end + 5) // 12}"
    misses = [Block(f"The debt of {other}, due in {begins}, was extended to {later}.",
                    (Fact(other, "due month", begins), Fact(other, "extended month", later)))]  # fmt: skip
    monthly = round(debt * rate / 100 / 12, 2)
    return report.draft(
        "extension_interest", 4, [debt_block, extended],
        f"How much interest in dollars does the debt of {company} bear over the months of its extension?",
        answer or f"${interest:,}",
        f"{months} months. {_text(rate)}% of {_text(debt)} is {_text(round(debt * rate / 100, 2))} a year, "
        f"{_text(monthly)} a month. {months} x {_text(monthly)} = {interest:,}.",
        {"op": "extension_interest", "company": company}, misses,
    )  # fmt: skip


def _random_extension(report: _Report) -> Draft:
    short = report.shape.is_short
    rate = report.rng.choice([5, 6, 8, 10])
    debt = 1200 * report.rng.randint(1, 9) if short else 1200 * report.rng.randint(50, 8_000)
    months = report.rng.randint(2, 9) if short else report.rng.randint(5, 40)
    return extension_interest(report, debt, rate, (report.year, report.rng.randrange(12)), months)


def _weighted_rate(report: _Report) -> Draft:
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
        Block(f"Loan {name} of {company} is {_million(size)} at {rate}% a year.",
              (Fact(company, f"loan {name} amount", size), Fact(company, f"loan {name} rate", rate)))
        for name, size, rate in (("A", a, low), ("B", b, low + gap))
    ]  # fmt: skip
    products = f"{_text(a)} x {low} = {_text(a * low)}, {_text(b)} x {low + gap} = {_text(b * (low + gap))}"
    return report.draft(
        "weighted_rate", 4, blocks,
        f"What is the weighted average interest rate of loans A and B of {company}, in percent a year?",
        f"{_text(weighted)}%",
        f"{products}. {_text(a * low + b * (low + gap))} / {_text(a + b)} = {_text(weighted)}%.",
        {"op": "weighted_rate", "company": company},
    )  # fmt: skip


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
    return choose_kind(KINDS, shape, rng).make(_Report(rng, shape))


def bond_case(rng: Random, shape: Shape) -> Draft:
    """Notes of $490 million at 6%, paid half-yearly, and issue costs of $3 million: $32.4 million in the
    first year. One half-yearly payment taken for the year's interest gives $17.7 million."""
    return first_year_cost(_Report(rng, shape), 490, 6, 3)


def extension_case(rng: Random, shape: Shape) -> Draft:
    """A debt of $9,046,154 at 10% a year, extended from July 2022 to August 2023: 13 months, $980,000."""
    return extension_interest(_Report(rng, shape), 9_046_154, 10, (2022, 6), 13)
