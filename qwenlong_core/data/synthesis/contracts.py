"""Contracts with a question that has four options (domain ``logical``).

The right option is stated in one clause. The wrong ones are stated in others: the clause before it was
amended, its exception, or the same clause of another order. All four options have the same form, and the
right one is drawn at random, so that only the document tells them apart.
"""

from __future__ import annotations

from dataclasses import replace
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
    """The question with ``{order}``, in lower case and without its question mark."""
    asked_back: str
    """The question for the order, with ``{value}``."""
    term: str
    """What the value is."""
    unit: str
    values: tuple[int, ...]
    exception: str
    """The condition under which another value holds."""


_CLAUSES = (
    _Clause("Termination", "Either party may terminate {order} on {value}' notice",
            "how much notice is required to terminate {order}",
            "which order may be terminated on {value}' notice",
            "notice period", "{} days", (10, 15, 20, 25, 30, 45, 60, 75, 90), "in the first year"),
    _Clause("Payment", "Invoices under {order} are due within {value}",
            "how long does the Buyer have to pay invoices under {order}",
            "under which order are invoices due within {value}",
            "payment period", "{} days", (10, 14, 20, 25, 30, 35, 40, 45, 60), "for spare parts"),
    _Clause("Liability", "Liability under {order} is limited to {value}",
            "what is the limit of liability under {order}",
            "under which order is liability limited to {value}",
            "liability limit", "${},000", (20, 25, 30, 40, 50, 60, 75, 80, 90), "for breach of confidentiality"),
    _Clause("Warranty", "Goods supplied under {order} carry a warranty of {value}",
            "what warranty period applies under {order}",
            "under which order do goods carry a warranty of {value}",
            "warranty period", "{} months", (12, 15, 18, 24, 30, 36, 42, 48), "for used goods"),
    _Clause("Delivery", "The Seller shall deliver goods under {order} within {value}",
            "what delivery period applies under {order}",
            "under which order must goods be delivered within {value}",
            "delivery period", "{} weeks", (10, 11, 12, 14, 15, 16, 18, 20), "for rush items"),
    _Clause("Late delivery", "For each week of delay under {order}, the Seller owes {value} of the price",
            "what share of the price does the Seller owe for each week of delay under {order}",
            "under which order does the Seller owe {value} of the price for each week of delay",
            "weekly charge", "{}%", (2, 3, 4, 5, 6, 7, 8, 9), "after a strike"),
    _Clause("Confidentiality", "Information disclosed under {order} must be kept confidential for {value}",
            "what confidentiality period applies under {order}",
            "under which order must information be kept confidential for {value}",
            "confidentiality period", "{} years", (2, 3, 4, 5, 6, 7, 8, 9), "for source code"),
    _Clause("Audit", "The Buyer may audit the Seller's records for {order} on {value}' notice",
            "how much notice must the Buyer give before an audit under {order}",
            "for which order may the Buyer audit the records on {value}' notice",
            "audit notice period", "{} days", (10, 12, 14, 15, 18, 20, 21, 28), "after a data breach"),
)  # fmt: skip

_CLOSERS = (
    "Headings are for reference only.", "Notices must be in writing.", "Days are calendar days.",
    "Time is of the essence.", "The parties shall act in good faith.", "Copies count as originals.",
    "Waivers must be in writing.", "The English text prevails.",
    "Neither party may assign this agreement without the consent of the other.", "Taxes are extra.",
    "Each party bears its own costs of negotiation and signature.", "The singular includes the plural.",
    "If a clause is void, the others remain in force.", "Third parties gain no rights.",
    "This agreement binds successors and permitted assigns.", "Signed in duplicate.",
    "The recitals form part of this agreement.", "Business hours apply.",
    "Nothing in this agreement creates a partnership or agency between the parties.",
    "Force majeure excuses delay.", "The Seller carries insurance.", "The Buyer keeps records.",
    "Disputes are first referred to the managers of both parties.", "Electronic signatures are valid.",
    "The schedules are part of this agreement.",
)  # fmt: skip

_BOILERPLATE = (
    (
        "Before work under {order} begins, {buyer} appoints a manager who may give instructions. The manager may"
        " delegate this authority in writing, and {seller} may rely on the delegate's instructions until notified"
        " otherwise."
    ),
    (
        "Risk in goods under {order} passes to {buyer} when the carrier unloads them at the agreed place. Title passes"
        " once the price has been paid in full; until then, {buyer} stores the goods separately and marks them as the"
        " property of {seller}."
    ),
    (
        "{seller} follows the site rules of {buyer} while performing {order}. It reports every accident on the day it"
        " happens and keeps a list of the people it has sent to the site."
    ),
    (
        "Drawings made for {order} remain the property of the party that made them. The other party may copy them only"
        " as needed to use, maintain and repair the goods, and for no other purpose."
    ),
    (
        "If the scope of {order} changes, {seller} states in writing how the change affects the price and the"
        " schedule. The change takes effect once {buyer} has agreed to it in writing."
    ),
    (
        "{seller} may subcontract parts of {order} but is responsible for its subcontractors as for its own staff."
        " {buyer} may reject a subcontractor for good reason, for example if it is a competitor of {buyer}."
    ),
    (
        "Goods under {order} are tested at the works of {seller} before shipment. {buyer} is invited to the tests; if"
        " it does not attend, the results recorded by {seller} are deemed correct."
    ),
    (
        "If the law at the place of delivery changes after {order} is signed, the parties meet and agree on a fair way"
        " to share the cost. Neither party may stop work while these talks are under way."
    ),
    (
        "{buyer} provides power, water and a dry room on site for {order}. When the work is finished, {seller} clears"
        " the site and removes its waste at its own expense."
    ),
    (
        "Both parties keep proper records of {order} and let the other party inspect them during office hours, unless"
        " a duty to a third party prevents it."
    ),
)

_LEADS = {"as a rule": "as a general rule, ", "today": "as of today, "}
"""Conditions that open the question; exceptions close it."""


class _Contract:
    """One framework agreement with its orders. Each order has clauses of its own."""

    def __init__(self, rng: Random, shape: Shape) -> None:
        self.rng, self.shape, self.names = rng, shape, Names(rng)
        self.buyer, self.seller = self.names.company(), self.names.company()
        self.clause = rng.choice(_CLAUSES)
        self._letters = rng.sample("EFGHJKLMNPQRSTUVWXYZ", 20)  # A to D are the options
        self._orders = 100
        self.order = self.new_order()
        self.values = [self.clause.unit.format(value) for value in rng.sample(self.clause.values, 4)]
        self.fillers: tuple[_Clause, ...] = _CLAUSES

    def new_order(self) -> str:
        """An unused order: letters in random order first, numbers once the letters run out."""
        if self._letters:
            return f"Order {self._letters.pop()}"
        self._orders += 1
        return f"Order {self._orders}"

    def title(self) -> str:
        title = f"Agreement between {self.buyer} (Buyer) and {self.seller} (Seller)"
        if self.shape.is_short:
            return title
        return (
            f"{title}\n\nThe Buyer intends to place several orders with the Seller. This agreement sets out the terms;"
            " where they differ from order to order, the clause that names the order applies."
        )

    def stated(self, order: str, clause: _Clause, value: str, exception: str | None = None) -> Block:
        text = f"{clause.heading}. {clause.text.format(order=order, value=value)}."
        facts = [Fact(order, clause.heading, value)]
        if exception:
            text += f" {_sentence(clause.exception)}, the {clause.term} is {exception}."
            facts.append(Fact(order, clause.heading, exception, clause.exception))
        return Block(text, tuple(facts))

    def elsewhere(self, values: list[str]) -> list[Block]:
        """The same clause of other orders, which supply the wrong options."""
        return [self.stated(self.new_order(), self.clause, value) for value in values]

    def filler(self, rng: Random) -> Block:
        """Several clauses of one more order, or a paragraph without terms."""
        order = self.new_order()
        if rng.random() < 0.3:
            return Block(rng.choice(_BOILERPLATE).format(order=order, buyer=self.buyer, seller=self.seller))
        blocks = []
        for clause in rng.sample(self.fillers, 1 if self.shape.is_short else rng.randint(2, 4)):
            rule, exception = (clause.unit.format(v) for v in rng.sample(clause.values, 2))
            blocks.append(self.stated(order, clause, rule, exception if rng.random() < 0.4 else None))
        return Block("\n".join(block.text for block in blocks), tuple(fact for block in blocks for fact in block.facts))

    def question(self, condition: str) -> str:
        """The question under a condition: none, an exception, ``as a rule`` or ``today``."""
        asked = self.clause.asked.format(order=self.order)
        if condition in _LEADS:
            asked = _LEADS[condition] + asked
        elif condition:
            asked = f"{asked} {condition}"
        return f"{_sentence(asked)}?"

    def draft(
        self,
        kind: str,
        steps: int,
        evidence: list[Block],
        *,
        answer: str,
        condition: str,
        why: str,
        misses: list[Block],
    ) -> Draft:
        """A draft whose options are the four drawn values; ``why`` opens the worked solution."""
        options = list(self.values)
        self.rng.shuffle(options)
        letter = "ABCD"[options.index(answer)]
        work = f"{why} The {self.clause.term} is {answer}, option {letter}."
        if self.shape.is_short:
            evidence = [Block(" ".join(b.text for b in evidence), tuple(f for b in evidence for f in b.facts))]
        return Draft(
            domain="logical",
            answer_type="choice",
            kind=kind,
            steps=steps,
            title=self.title(),
            question=self.question(condition),
            answers=(letter,),
            choices=tuple(options),
            solution=f"<think>{work}</think>\n\n{answer_form('choice', letter)}",
            query={"op": "clause", "subject": self.order, "attribute": self.clause.heading, "condition": condition},
            evidence=tuple(evidence),
            distractors=tuple(misses[: max(3, self.shape.distractors)]),
            filler=self.filler,
            closers=_CLOSERS,
            prefix="" if self.shape.is_short else "{n}. ",
        )


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _lookup(contract: _Contract) -> Draft:
    answer, *others = contract.values
    clause = contract.stated(contract.order, contract.clause, answer)
    misses = contract.elsewhere(others)
    draft = contract.draft("lookup", 1, [clause], answer=answer, condition="", why="", misses=misses)
    # A small model copies what follows a value that it has just read, but does not find what stands before it. So the
    # options are read with the letters behind them.
    (letter,) = draft.answers
    read = ", ".join(f"{option} ({each})" for each, option in zip("ABCD", draft.choices, strict=True))
    said = clause.text.removeprefix(f"{contract.clause.heading}. ")
    work = f"{said}\n{read}. So {answer} ({letter})."
    return replace(draft, solution=f"<think>{work}</think>\n\n{answer_form('choice', letter)}")


def _order_of(contract: _Contract) -> Draft:
    """The lookup the other way round: the value is given, and the order is asked for."""
    draft, clause, value = _lookup(contract), contract.clause, contract.values[0]
    options = [contract.order, *(block.facts[0].subject for block in draft.distractors)]
    contract.rng.shuffle(options)
    letter = "ABCD"[options.index(contract.order)]
    # No other order may have this value.
    contract.fillers = tuple(other for other in contract.fillers if other is not clause)
    work = f"The {clause.term} under {contract.order} is {value}. {contract.order} is option {letter}."
    return replace(
        draft,
        kind="order_of",
        question=f"{_sentence(clause.asked_back.format(value=value))}?",
        answers=(letter,),
        choices=tuple(options),
        solution=f"<think>{work}</think>\n\n{answer_form('choice', letter)}",
        query={"op": "order_of", "attribute": clause.heading, "value": value},
    )


def _exception(contract: _Contract) -> Draft:
    rule, exception, *others = contract.values
    clause = contract.stated(contract.order, contract.clause, rule, exception)
    misses = contract.elsewhere(others)
    # Half of the questions ask for the rule, so that an exception in sight is no hint.
    if contract.rng.random() < 0.5:
        answer, condition = exception, contract.clause.exception
        why = f"The question asks about the {contract.clause.term} {condition}, so the exception applies."
    else:
        answer, condition = rule, "as a rule"
        why = "The question asks for the general rule, so the exception does not apply."
    return contract.draft("exception", 2, [clause], answer=answer, condition=condition, why=why, misses=misses)


def _amended(contract: _Contract) -> Draft:
    before, after, *others = contract.values
    heading, term = contract.clause.heading, contract.clause.term
    clause = contract.stated(contract.order, contract.clause, before)
    amendment = Block(
        f"Amendment. The {term} under {contract.order} is changed from {before} to {after}.",
        (Fact(contract.order, heading, after, "amendment"),),
    )
    return contract.draft(
        "amended",
        2,
        [clause, amendment],
        answer=after,
        condition="today",
        why=f"The amendment replaced {before}.",
        misses=contract.elsewhere(others),
    )


def _amended_exception(contract: _Contract) -> Draft:
    rule, before, after, other = contract.values
    clause = contract.stated(contract.order, contract.clause, rule, before)
    condition, heading, term = contract.clause.exception, contract.clause.heading, contract.clause.term
    amendment = Block(
        f"Amendment. {_sentence(condition)}, the {term} under {contract.order} is now {after}.",
        (Fact(contract.order, heading, after, f"amendment {condition}"),),
    )
    return contract.draft(
        "amended_exception",
        3,
        [clause, amendment],
        answer=after,
        condition=condition,
        why=f"The exception applies, and the amendment replaced {before}.",
        misses=contract.elsewhere([other]),
    )


KINDS: dict[str, Kind] = {
    "lookup": Kind(1, 2, _lookup),
    "order_of": Kind(1, 1, _order_of),
    "exception": Kind(2, 3, _exception),
    "amended": Kind(2, 3, _amended),
    "amended_exception": Kind(3, 2, _amended_exception, min_tokens=224),
}


def draft(rng: Random, shape: Shape) -> Draft:
    """One contract with its question."""
    return choose_kind(KINDS, shape, rng).make(_Contract(rng, shape))
