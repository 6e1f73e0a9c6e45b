"""Contracts with a question that has four options (domain ``logical``).

The right option stands in one clause; the wrong ones stand in others: the clause before it was
amended, its exception, the same clause of another order. All four have the same form, and which of
them is right is drawn, so nothing but the document tells them apart.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from qwenlong_core.data.prompts import answer_form
from qwenlong_core.data.synthesis.document import Block, Draft, Fact, Kind, Shape, choose_kind
from qwenlong_core.data.synthesis.words import Names


class _Clause(NamedTuple):
    heading: str
    text: str
    """With ``{order}`` and ``{value}``."""
    asked: str
    unit: str
    values: tuple[int, ...]
    exception: str
    """The condition under which another value holds."""


_CLAUSES = (
    _Clause("Termination", "Either party may end {order} on {value} notice", "What notice ends {order}", "{} days",
            (10, 15, 20, 25, 30, 45, 60, 75, 90), "in the first year"),
    _Clause("Payment", "Invoices under {order} are due within {value}", "When are invoices under {order} due", "{} days",
            (10, 14, 20, 25, 30, 35, 40, 45, 60), "for spare parts"),
    _Clause("Liability", "Liability under {order} is limited to {value}", "To what is liability under {order} limited",
            "${},000", (20, 25, 30, 40, 50, 60, 75, 80, 90), "for breach of secrecy"),
    _Clause("Warranty", "Goods under {order} carry a warranty of {value}", "What warranty do goods under {order} carry",
            "{} months", (12, 15, 18, 24, 30, 36, 42, 48), "for used goods"),
    _Clause("Delivery", "The Seller delivers under {order} within {value}", "Within what time does the Seller deliver under {order}",
            "{} weeks", (10, 11, 12, 14, 15, 16, 18, 20), "for rush items"),
    _Clause("Late delivery", "A delay under {order} costs the Seller {value} of the price a week",
            "What part of the price does a week of delay cost the Seller under {order}", "{}%",
            (2, 3, 4, 5, 6, 7, 8, 9), "after a strike"),
    _Clause("Secrecy", "Secrets learned under {order} are kept for {value}", "How long are secrets learned under {order} kept",
            "{} years", (2, 3, 4, 5, 6, 7, 8, 9), "for source code"),
    _Clause("Audit", "The Buyer may audit {order} on {value} notice", "On what notice may the Buyer audit {order}", "{} days",
            (10, 12, 14, 15, 18, 20, 21, 28), "after a data loss"),
)  # fmt: skip

_CLOSERS = (
    "Headings are for reference only.", "Notices are in writing.", "Days are calendar days.", "Time is of the essence.",
    "The parties act in good faith.", "Copies are as good as originals.", "Waivers are in writing.",
    "Neither party may assign this agreement without the consent of the other.", "English text prevails.",
    "Each party bears its own costs of negotiation and signature.", "Taxes are extra.",
    "If a clause is void, the others remain in force.", "Singular words include the plural.",
    "This agreement binds successors and permitted assigns.", "Nobody else gains rights.",
    "The recitals form part of this agreement.", "Signed in two copies.", "Business hours apply.",
    "No partnership or agency is created between the parties by this agreement.", "Force majeure excuses delay.",
    "The Seller keeps insurance.", "The Buyer keeps records.", "Disputes go first to the managers of both parties.",
    "Electronic signatures are valid.", "Schedules are part of the agreement.",
)  # fmt: skip

_BOILERPLATE = (
    (
        "Before work under {order} starts, {buyer} names a manager who may give instructions. The manager may hand this"
        " right to a deputy by letter, and {seller} may rely on what the deputy says until told otherwise."
    ),
    (
        "Risk in goods under {order} passes to {buyer} when they leave the carrier at the agreed place. Title passes"
        " when the price is paid in full, and until then {buyer} stores the goods apart and marks them as the property"
        " of {seller}."
    ),
    (
        "{seller} follows the site rules of {buyer} while it performs {order}. It reports every accident on the day it "
        "happens and keeps a list of the persons that it has sent to the site."
    ),
    (
        "Drawings made for {order} remain with the party that made them. The other party may copy them as far as it"
        " needs them to use, to maintain and to repair the goods, and for no other purpose."
    ),
    (
        "If the scope of {order} changes, {seller} states in writing what the change costs and how it moves the dates."
        " The change takes effect once {buyer} has agreed to the statement."
    ),
    (
        "{seller} may have parts of {order} done by others, but answers for them as for its own staff. {buyer} may"
        " object to a subcontractor for good reason, in particular where it competes with {buyer}."
    ),
    (
        "Goods under {order} are tested at the works of {seller} before they are sent. {buyer} is invited to the tests,"
        " and if it stays away the results recorded by {seller} are taken as correct."
    ),
    (
        "Where the law of the place of delivery changes after {order} was signed, the parties meet and share the burden"
        " of the change in a fair way. Neither of them may stop its work while these talks go on."
    ),
    (
        "{buyer} provides power, water and a dry room at the site for the purposes of {order}. {seller} clears the site"
        " when it leaves and takes its waste along at its own cost."
    ),
    (
        "Both parties keep the papers of {order} in good order and let the other see them during office hours, so far"
        " as no duty towards a third party stands against it."
    ),
)


class _Contract:
    """One framework agreement with its orders; every order has clauses of its own."""

    def __init__(self, rng: Random, shape: Shape) -> None:
        self.rng, self.shape, self.names = rng, shape, Names(rng)
        self.buyer, self.seller = self.names.company(), self.names.company()
        self.clause = rng.choice(_CLAUSES)
        self._letters = rng.sample("ABCDEFGHJKLMNPQRSTUVWXYZ", 24)
        self._orders = 100
        self.order = self.new_order()
        self.values = [self.clause.unit.format(value) for value in rng.sample(self.clause.values, 4)]

    def new_order(self) -> str:
        """Orders are lettered, in drawn order, and numbered once the letters are used up."""
        if self._letters:
            return f"Order {self._letters.pop()}"
        self._orders += 1
        return f"Order {self._orders}"

    def title(self) -> str:
        title = f"Agreement of {self.buyer} (Buyer) and {self.seller} (Seller)"
        if self.shape.is_short:
            return title
        return (
            f"{title}\n\nThe Buyer intends to place several orders with the Seller. This agreement states the terms;"
            " where they differ from order to order, the clause that names the order decides."
        )

    def stated(self, order: str, clause: _Clause, value: str, exception: str | None = None) -> Block:
        text = f"{clause.heading}. {clause.text.format(order=order, value=value)}"
        facts = [Fact(order, clause.heading, value)]
        if exception:
            text += f", but {exception} {clause.exception}"
            facts.append(Fact(order, clause.heading, exception, clause.exception))
        return Block(text + ".", tuple(facts))

    def elsewhere(self, values: list[str]) -> list[Block]:
        """The same clause of other orders: where the wrong options come from."""
        return [self.stated(self.new_order(), self.clause, value) for value in values]

    def filler(self, rng: Random) -> Block:
        """Several clauses of one more order, or a paragraph without terms."""
        order = self.new_order()
        if rng.random() < 0.3:
            return Block(rng.choice(_BOILERPLATE).format(order=order, buyer=self.buyer, seller=self.seller))
        blocks = []
        for clause in rng.sample(_CLAUSES, 1 if self.shape.is_short else rng.randint(2, 4)):
            rule, exception = (clause.unit.format(v) for v in rng.sample(clause.values, 2))
            blocks.append(self.stated(order, clause, rule, exception if rng.random() < 0.4 else None))
        return Block("\n".join(block.text for block in blocks), tuple(fact for block in blocks for fact in block.facts))

    def draft(
        self, kind: str, steps: int, evidence: list[Block], answer: str, condition: str, why: str, misses: list[Block]
    ) -> Draft:
        options = list(self.values)
        self.rng.shuffle(options)
        letter = "ABCD"[options.index(answer)]
        asked = self.clause.asked.format(order=self.order)
        if self.shape.is_short:
            evidence = [Block(" ".join(b.text for b in evidence), tuple(f for b in evidence for f in b.facts))]
        return Draft(
            domain="logical",
            answer_type="choice",
            kind=kind,
            steps=steps,
            title=self.title(),
            question=f"{asked}{f' {condition}' if condition else ''}?",
            answers=(letter,),
            choices=tuple(options),
            solution=f"<think>{why} This is {answer}, option {letter}.</think>\n\n{answer_form('choice', letter)}",
            query={"op": "clause", "subject": self.order, "attribute": self.clause.heading, "condition": condition},
            evidence=tuple(evidence),
            distractors=tuple(misses[: max(3, self.shape.distractors)]),
            filler=self.filler,
            closers=_CLOSERS,
            prefix="" if self.shape.is_short else "{n}. ",
        )


def _lookup(contract: _Contract) -> Draft:
    answer, *others = contract.values
    clause = contract.stated(contract.order, contract.clause, answer)
    why = f"The clause on {contract.clause.heading.lower()} of {contract.order} decides."
    return contract.draft("lookup", 1, [clause], answer, "", why, contract.elsewhere(others))


def _exception(contract: _Contract) -> Draft:
    rule, exception, *others = contract.values
    clause = contract.stated(contract.order, contract.clause, rule, exception)
    misses = contract.elsewhere(others)
    if contract.rng.random() < 0.5:
        why = f"The exception {contract.clause.exception} applies."
        return contract.draft("exception", 2, [clause], exception, contract.clause.exception, why, misses)
    return contract.draft("exception", 2, [clause], rule, "as a rule", "The rule applies, not the exception.", misses)


def _amended(contract: _Contract) -> Draft:
    before, after, *others = contract.values
    clause = contract.stated(contract.order, contract.clause, before)
    amendment = Block(
        f'Amendment. In the clause "{contract.clause.heading}" of {contract.order}, {before} is replaced by {after}.',
        (Fact(contract.order, contract.clause.heading, after, "amendment"),),
    )
    why = f"The amendment replaced {before}."
    return contract.draft("amended", 2, [clause, amendment], after, "today", why, contract.elsewhere(others))


def _amended_exception(contract: _Contract) -> Draft:
    rule, before, after, other = contract.values
    clause = contract.stated(contract.order, contract.clause, rule, before)
    condition, heading = contract.clause.exception, contract.clause.heading
    amendment = Block(
        f'Amendment. In the clause "{heading}" of {contract.order}, the exception {condition} now reads {after}.',
        (Fact(contract.order, heading, after, f"amendment {condition}"),),
    )
    why = f"The exception {condition} applies, and the amendment replaced {before}."
    return contract.draft(
        "amended_exception", 3, [clause, amendment], after, condition, why, contract.elsewhere([other])
    )


KINDS: dict[str, Kind] = {
    "lookup": Kind(1, 2, _lookup),
    "exception": Kind(2, 3, _exception),
    "amended": Kind(2, 3, _amended),
    "amended_exception": Kind(3, 2, _amended_exception, min_tokens=224),
}


def draft(rng: Random, shape: Shape) -> Draft:
    """One contract with its question."""
    return choose_kind(KINDS, shape, rng).make(_Contract(rng, shape))
