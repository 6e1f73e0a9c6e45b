"""Answers the generated questions from the structured twin alone, without the generators' code.

Every lookup insists that exactly one fact answers it, so two facts that contradict each other in a
document fail the test.
"""

from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from qwenlong_core.data.synthesis.layout import Generated

MONTHS = [
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
]


class Twin:
    def __init__(self, facts: Any) -> None:
        self.values: dict[tuple[str, ...], list[Any]] = defaultdict(list)
        for subject, attribute, value, qualifier in facts:
            self.values[(subject, attribute, qualifier)].append(value)

    def has(self, subject: str, attribute: str, qualifier: str = "") -> bool:
        return (subject, attribute, qualifier) in self.values

    def get(self, subject: str, attribute: str, qualifier: str = "") -> Any:
        found = self.values[(subject, attribute, qualifier)]
        assert len(found) == 1, f"{subject} / {attribute} / {qualifier}: {len(found)} facts"
        return found[0]

    def number(self, subject: str, attribute: str, qualifier: str = "") -> Fraction:
        return Fraction(str(self.get(subject, attribute, qualifier)))


def month(text: str) -> int:
    name, year = text.split()
    return int(year) * 12 + MONTHS.index(name)


def difference(twin: Twin, query: Any) -> Fraction:
    after, before = (twin.number(*key) for key in query["of"])
    return (after - before) * query["sign"]


def percent(twin: Twin, query: Any) -> Fraction:
    return difference(twin, query) / twin.number(*query["of"][1]) * 100


def share(twin: Twin, query: Any) -> Fraction:
    part, whole = (twin.number(*key) for key in query["of"])
    return part / whole * 100


def annual_interest(twin: Twin, query: Any) -> Fraction:
    return twin.number(query["company"], "half-yearly interest") * 2


def first_year_cost(twin: Twin, query: Any) -> Fraction:
    return twin.number(query["company"], "issue costs") + annual_interest(twin, query)


def mixed_scale(twin: Twin, query: Any) -> Fraction:
    company, year = query["company"], query["year"]
    return (
        twin.number(company, "orders north, $ million", year)
        + twin.number(company, "orders south, $ thousand", year) / 1000
    )


def extension_interest(twin: Twin, query: Any) -> Fraction:
    company = query["company"]
    months = month(twin.get(company, "extended month")) - month(twin.get(company, "due month"))
    return twin.number(company, "debt") * twin.number(company, "debt rate") / 1200 * months


def weighted_rate(twin: Twin, query: Any) -> Fraction:
    loans = [
        (twin.number(query["company"], f"loan {x} amount"), twin.number(query["company"], f"loan {x} rate"))
        for x in "AB"
    ]
    return sum((a * r for a, r in loans), Fraction(0)) / sum((a for a, _ in loans), Fraction(0))


def clause(twin: Twin, query: Any) -> str:
    """The amended value under the condition, or the value under it, or the amended rule, or the rule."""
    subject, attribute, condition = query["subject"], query["attribute"], query["condition"]
    qualifiers = [f"amendment {condition}", condition] if twin.has(subject, attribute, condition) else ["amendment", ""]
    return str(next(twin.get(subject, attribute, q) for q in qualifiers if twin.has(subject, attribute, q)))


def path(twin: Twin, query: Any) -> str | None:
    here = query["start"]
    for attribute in query["path"]:
        if not twin.has(here, attribute):
            return None
        here = twin.get(here, attribute)
    return str(here)


def year_of(twin: Twin, query: Any) -> Fraction:
    """The only year in which the subject's attribute has the value."""
    (year,) = [year for year in query["years"] if twin.number(*query["of"], year) == query["value"]]
    return Fraction(year)


def holders(twin: Twin, attribute: str, value: str) -> list[str]:
    """The subjects whose attribute has the value."""
    return [s for (s, name, _), values in twin.values.items() if name == attribute and value in values]


def order_of(twin: Twin, query: Any) -> str:
    (order,) = holders(twin, query["attribute"], query["value"])
    return order


def film_of(twin: Twin, query: Any) -> str:
    (person,) = holders(twin, "birthplace", query["city"])
    (film,) = holders(twin, "director", person)
    return film


def same(twin: Twin, query: Any) -> str:
    a, b = (twin.get(*key) for key in query["of"])
    return "yes" if a == b else "no"


def before(twin: Twin, query: Any) -> str:
    a, b = (twin.number(*key) for key in query["of"])
    return "yes" if a < b else "no"


OPERATIONS: dict[str, Callable[[Twin, Any], Any]] = {
    "difference": difference,
    "percent": percent,
    "share": share,
    "annual_interest": annual_interest,
    "first_year_cost": first_year_cost,
    "mixed_scale": mixed_scale,
    "extension_interest": extension_interest,
    "weighted_rate": weighted_rate,
    "clause": clause,
    "path": path,
    "same": same,
    "year_of": year_of,
    "order_of": order_of,
    "film_of": film_of,
    "before": before,
    "value": lambda twin, query: twin.number(*query["of"]),
    "add": lambda twin, query: sum(twin.number(*key) for key in query["of"]),
    "subtract": lambda twin, query: twin.number(*query["of"][0]) - twin.number(*query["of"][1]),
}


def solve(generated: Generated) -> Any:
    """A number, a text, yes/no, or ``None`` where the document does not say."""
    return OPERATIONS[generated.query["op"]](Twin(generated.twin), generated.query)
