"""The financial report around a question: the company, its figures, and the notes about others."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from qwenlong_core.data.prompts import answer_form
from qwenlong_core.data.synthesis.document import Block, Draft, Fact, Shape
from qwenlong_core.data.synthesis.words import Names

_LINES = (
    "net sales",
    "operating income",
    "gross profit",
    "research costs",
    "capital spending",
    "total debt",
    "cash",
    "inventories",
    "trade receivables",
    "pension costs",
    "tax expense",
    "marketing costs",
)
_CLOSERS = (
    "All figures have been audited.", "Figures are rounded.", "No dividend was paid.", "Approved.",
    "The board met every month.", "The auditors agreed.", "See also the other notes.", "Leases are short-term.",
    "Amounts are in US dollars.", "Headcount was stable.", "Weather had little effect.",
    "Markets remained competitive throughout the period.", "Management expects a steady year.",
    "There were no significant events after the reporting date.", "Customers paid on time.",
    "The accounts follow generally accepted principles.", "Comparative figures were not restated.",
    "Risks are reviewed by the audit committee every quarter.", "Currency effects were minor.",
    "The group has no significant contingent liabilities at this time.", "Suppliers delivered on time.",
    "Energy prices eased a little towards the end of the year.", "Insurance was renewed.",
    "The annual meeting is held in spring.", "Further details are available from the company on request.",
)  # fmt: skip


def text(value: float) -> str:
    """A figure as printed in the report, with thousands separators and without trailing zeros."""
    return f"{value:,.10g}" if value < 1e10 else f"{value:,.0f}"


def million(value: float) -> str:
    """An amount in millions of dollars."""
    return f"${text(value)} million"


def possessive(name: str) -> str:
    """The name in the genitive: ``Nord Steel's``, ``Delta Foods'``."""
    return f"{name}'" if name.endswith("s") else f"{name}'s"


class Report:
    """The company asked about, and the names and lines that are still unused."""

    def __init__(self, rng: Random, shape: Shape) -> None:
        self.rng, self.shape, self.names = rng, shape, Names(rng)
        self.company = self.names.company()
        self.year = rng.randint(2015, 2024)
        self.line, *self.other_lines = rng.sample(_LINES, 6)

    def figure(self, step: int = 1) -> int:
        """A figure in $ million and a multiple of ``step``; it has two digits in short documents."""
        low, high = (20, 99) if self.shape.is_short else (110, 4_900)
        return step * self.rng.randint(-(-low // step), high // step)

    def figures(self, years: tuple[int, ...]) -> dict[int, float]:
        """A line's figures over the years. Each is within a quarter of the one before, and never equal to it."""
        values = [self.figure()]
        while len(values) < len(years):
            last = values[-1]
            moved = last + self.rng.choice([-1, 1]) * self.rng.randint(1, max(1, last // 4))
            values.append(max(1, moved))
        return dict(zip(years, values, strict=True))

    def stated(self, company: str, line: str, values: dict[int, float]) -> Block:
        """One sentence, or a table if there are several years."""
        facts = tuple(Fact(company, line, value, str(year)) for year, value in values.items())
        years = list(values)
        if len(years) > 2 or (len(years) == 2 and not self.shape.is_short and self.rng.random() < 0.5):
            head = f"{line.capitalize()} of {company} ($ million)"
            rows = "\n".join(f"| {year} | {text(value)} |" for year, value in values.items())
            return Block(f"{head}\n| Year | Amount |\n{rows}", facts)
        listed = " and ".join(f"{million(value)} in {year}" for year, value in values.items())
        return Block(f"{company} reported {line} of {listed}.", facts)

    def over_years(self, values: dict[int, float]) -> list[Block]:
        """The line asked about: one sentence, or in long reports one statement per year."""
        if self.shape.is_short:
            return [self.stated(self.company, self.line, values)]
        others = [self.other_lines.pop() for _ in range(2)]
        return [self._statement(year, {self.line: value}, others) for year, value in values.items()]

    def _statement(self, year: int, known: dict[str, float], others: list[str]) -> Block:
        figures = {**known, **{line: self.figure() for line in others}}
        lines = list(figures)
        self.rng.shuffle(lines)
        rows = "\n".join(f"| {line.capitalize()} | {text(figures[line])} |" for line in lines)
        facts = tuple(Fact(self.company, line, figures[line], str(year)) for line in lines)
        return Block(f"{self.company}, fiscal year {year} ($ million)\n| Item | Amount |\n{rows}", facts)

    def near_misses(self) -> list[Block]:
        """In turn other lines of the same company, and the same line of other companies."""
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
            rows.append(f"| {line.capitalize()} | {' | '.join(map(text, values.values()))} |")
            facts += [Fact(company, line, value, str(year)) for year, value in values.items()]
        head = f"{company}, selected figures ($ million)\n| Item | {years[0]} | {years[1]} |\n"
        return Block(head + "\n".join(rows), tuple(facts))

    def draft(
        self,
        kind: str,
        steps: int,
        evidence: list[Block],
        *,
        question: str,
        answer: str,
        work: str,
        query: dict[str, Any],
        distractors: Sequence[Block] = (),
    ) -> Draft:
        """A draft about this company.

        Args:
            evidence: a short document states all of it in one block.
            work: the reasoning of the worked solution.
            distractors: near misses to use before those that every form of question has.
        """
        misses = [*distractors, *self.near_misses()]
        if self.shape.is_short:
            evidence = [Block(" ".join(b.text for b in evidence), tuple(f for b in evidence for f in b.facts))]
        return Draft(
            domain="math",
            answer_type="number",
            kind=kind,
            steps=steps,
            title=f"{self.company}: annual report for {self.year}",
            question=question,
            answers=(answer,),
            solution=f"<think>{work}</think>\n\n{answer_form('number', answer)}",
            query=query,
            evidence=tuple(evidence),
            distractors=tuple(misses[: self.shape.distractors]),
            filler=self.filler,
            closers=_CLOSERS,
            prefix="" if self.shape.is_short else "Note {n}. ",
        )


_REMARKS = (
    "{company} attributes the change to lower freight rates and to two new customers in the region.",
    "The change at {company} is mostly due to prices, as volumes were almost flat during the period.",
    "The directors of {company} consider this level adequate for the plans of the coming year.",
    "At {company}, the amount includes items that are not expected to recur.",
    "A strike at the main plant slowed {company} down in spring, but most of the shortfall was made up by autumn.",
    "The auditors of {company} tested a sample of the entries and found no material differences.",
    "From next year on, the regional units of {company} will report this item themselves.",
    "Analysts had expected slightly less from {company} after the weak figures of its competitors.",
    "{company} opened a new warehouse in March, which cut delivery times by a third.",
    "{company} hedges most of its currency exposure and reviews the policy every quarter.",
    "Wages at {company} rose in line with the industry, while headcount was almost unchanged.",
    "The figure for {company} is stated before the effect of a contract that was settled after year-end.",
)
