"""Technical manuals with a question about a limit, a step or a part (domain ``reading``).

Limits are given in tables, and a note may change them. Procedures are numbered lists. Parts are named by
class, and another table says which part each class is. Other devices have the same tables with other values.
"""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import Any

from qwenlong_core.data.prompts import answer_form
from qwenlong_core.data.synthesis.document import Block, Draft, Fact, Kind, Shape, choose_kind
from qwenlong_core.data.synthesis.words import DEVICE_KINDS, Names
from qwenlong_core.records import AnswerType

_QUANTITIES = (
    ("pressure", "bar", (4, 40)),
    ("temperature", "degrees C", (20, 95)),
    ("speed", "rpm", (30, 99)),
    ("load", "kg", (20, 98)),
    ("flow", "litres per minute", (12, 90)),
    ("current", "amperes", (5, 63)),
)
_STEPS = (
    "close the inlet",
    "open the vent",
    "drain the tank",
    "switch off the power",
    "lock the cover",
    "check the oil level",
    "turn the key",
    "press the green button",
    "wait for the lamp to light up",
    "clean the filter",
    "release the brake",
    "set the timer",
)
_PARTS = (
    "hex bolt",
    "drive belt",
    "copper ring",
    "rubber seal",
    "steel pin",
    "felt washer",
    "brass nut",
    "nylon strap",
    "cork gasket",
    "spring clip",
)
_PLACES = ("cover", "gearbox", "inlet", "motor", "frame", "panel", "outlet", "bearing")

_CLOSERS = (
    "Keep this manual.", "Wear gloves.", "Wear safety glasses at all times.", "Do not use force.",
    "Contact service if unsure.", "Use original parts only.", "Record all work in the log book.", "Keep the area dry.",
    "Beware of hot surfaces.", "Only trained staff may work on the device.", "Read all warnings first.",
    "Keep children away.", "Dispose of oil properly.", "Use clean tools.", "Values apply at sea level.",
    "Drawings are not to scale.", "Stop if you hear unusual noise.", "Store upright.", "Replace worn labels.",
    "The manufacturer may change details without notice.", "Check for shipping damage on arrival.",
    "A second trained person should be within earshot while work is in progress.",
    "A spare parts list is available.", "Never bypass a safety switch, not even for a short test.",
    "Tighten bolts crosswise.",
)  # fmt: skip

_REMARKS = (
    "After transport, let the {device} stand for two hours before connecting it, so that the oil can settle.",
    "The housing of the {device} is a single casting and must not be drilled or welded.",
    "If the {device} has not been used for a month, turn it over by hand before starting it.",
    "Bolt the {device} to the floor with four anchors; the floor must be level and free of grease.",
    "A humming sound from the {device} during the first few minutes is normal and stops once it has warmed up.",
    "Route the cables of the {device} through the side, never through the door, and keep them clear of moving parts.",
    "Clean the {device} with a soft cloth and water without additives; steam damages the seals.",
    "The nameplate of the {device} is at the rear, next to the connection for the drain hose.",
)


class _Manual:
    """The device asked about, and everything the manual says of it and of others."""

    def __init__(self, rng: Random, shape: Shape) -> None:
        self.rng, self.shape, self.names = rng, shape, Names(rng)
        self.device = self.new_device()
        self.quantity, self.unit, self.span = rng.choice(_QUANTITIES)
        self.classes = rng.sample("ABCDEFGHJK", 4)

    def new_device(self) -> str:
        return f"{self.names.device()} {self.rng.choice(DEVICE_KINDS)}"

    def limits(self, device: str, quantity: str, unit: str, span: tuple[int, int]) -> tuple[Block, list[int]]:
        """A table of three limits in ascending order."""
        low, normal, high = sorted(self.rng.sample(range(*span), 3))
        head = f"{quantity.capitalize()} limits of the {device} in {unit}"
        table = f"| Minimum | Normal | Maximum |\n| {low} | {normal} | {high} |"
        named = zip(("minimum", "normal", "maximum"), (low, normal, high), strict=True)
        facts = tuple(Fact(device, f"{name} {quantity}", value) for name, value in named)
        return Block(f"{head}\n{table}", facts), [low, normal, high]

    def procedure(self, device: str, task: str) -> tuple[Block, list[str]]:
        steps = self.rng.sample(_STEPS, 4)
        listed = "\n".join(f"{i}. {step.capitalize()}." for i, step in enumerate(steps, 1))
        facts = tuple(Fact(device, f"{task}: step after {before}", after) for before, after in pairwise(steps))
        return Block(f"To {task} the {device}:\n{listed}", facts), steps

    def needs(self, device: str, place: str, letter: str) -> Block:
        return Block(
            f"The {place} of the {device} takes a Class {letter} part.",
            (Fact(device, f"part class of {place}", f"class {letter}"),),
        )

    def near_misses(self) -> list[Block]:
        """In turn a table, a procedure and a part of other devices."""
        blocks = []
        for index in range(self.shape.distractors):
            device = self.new_device()
            make = (
                lambda d: self.limits(d, self.quantity, self.unit, self.span)[0],
                lambda d: self.procedure(d, "start")[0],
                lambda d: self.needs(d, self.rng.choice(_PLACES), self.rng.choice(self.classes)),
            )
            blocks.append(make[index % 3](device))
        return blocks

    def filler(self, rng: Random) -> Block:
        device = self.new_device()
        kind = rng.randrange(4)
        if kind == 0:
            block = self.limits(device, *rng.choice(_QUANTITIES))[0]
        elif kind == 1:
            block = self.procedure(device, rng.choice(("start", "stop", "empty", "service")))[0]
        elif kind == 2:
            block = self.needs(device, rng.choice(_PLACES), rng.choice(self.classes))
        else:
            return Block(rng.choice(_REMARKS).format(device=device))
        return Block(f"{block.text}\n{rng.choice(_REMARKS).format(device=device)}", block.facts)

    def draft(
        self,
        kind: str,
        steps: int,
        answer_type: AnswerType,
        evidence: list[Block],
        *,
        question: str,
        answer: str,
        work: str,
        query: dict[str, Any],
    ) -> Draft:
        return Draft(
            domain="reading",
            answer_type=answer_type,
            kind=kind,
            steps=steps,
            title="Service manual",
            question=question,
            answers=(answer,),
            query=query,
            evidence=tuple(evidence),
            solution=f"<think>{work}</think>\n\n{answer_form(answer_type, answer)}",
            distractors=tuple(self.near_misses()),
            filler=self.filler,
            closers=_CLOSERS,
            prefix="" if self.shape.is_short else "{n} ",
        )


def _limit(manual: _Manual) -> Draft:
    table, values = manual.limits(manual.device, manual.quantity, manual.unit, manual.span)
    index = manual.rng.randrange(3)
    name = ("minimum", "normal", "maximum")[index]
    return manual.draft(
        "limit",
        1,
        "number",
        [table],
        question=f"What is the {name} {manual.quantity} of the {manual.device}, in {manual.unit}?",
        answer=str(values[index]),
        work=f"The table lists {values[0]}, {values[1]} and {values[2]}. The {name} is {values[index]}.",
        query={"op": "value", "of": [manual.device, f"{name} {manual.quantity}"]},
    )


def _reserve(manual: _Manual) -> Draft:
    table, (_, normal, high) = manual.limits(manual.device, manual.quantity, manual.unit, manual.span)
    return manual.draft(
        "reserve",
        2,
        "number",
        [table],
        question=f"By how much does the maximum {manual.quantity} of the {manual.device} exceed the normal"
        f" {manual.quantity}, in {manual.unit}?",
        answer=str(high - normal),
        work=f"The maximum is {high}, the normal value {normal}. {high} - {normal} = {high - normal}.",
        query={
            "op": "subtract",
            "of": [[manual.device, f"maximum {manual.quantity}"], [manual.device, f"normal {manual.quantity}"]],
        },
    )


def _kit(manual: _Manual) -> Draft:
    table, values = manual.limits(manual.device, manual.quantity, manual.unit, manual.span)
    more = manual.rng.randint(2, 9)
    kit = Block(
        f"The winter kit raises the maximum {manual.quantity} of the {manual.device} by {more} {manual.unit}.",
        (Fact(manual.device, f"winter kit adds to maximum {manual.quantity}", more),),
    )
    total = values[2] + more
    return manual.draft(
        "kit",
        2,
        "number",
        [table, kit],
        question=f"What is the maximum {manual.quantity} of the {manual.device} with the winter kit, in {manual.unit}?",
        answer=str(total),
        work=f"The maximum is {values[2]} without the kit. {values[2]} + {more} = {total}.",
        query={
            "op": "add",
            "of": [
                [manual.device, f"maximum {manual.quantity}"],
                [manual.device, f"winter kit adds to maximum {manual.quantity}"],
            ],
        },
    )


def _next_step(manual: _Manual) -> Draft:
    block, steps = manual.procedure(manual.device, "start")
    index = manual.rng.randrange(3)
    return manual.draft(
        "next_step",
        1,
        "span",
        [block],
        question=f'When starting the {manual.device}, which step follows "{steps[index]}"?',
        answer=steps[index + 1],
        work=f'Step {index + 1} is "{steps[index]}". Step {index + 2} is "{steps[index + 1]}".',
        query={"op": "path", "start": manual.device, "path": [f"start: step after {steps[index]}"]},
    )


def _cross_reference(manual: _Manual) -> Draft:
    place, parts = manual.rng.choice(_PLACES), manual.rng.sample(_PARTS, 4)
    letter, part = manual.classes[0], parts[0]
    pairs = sorted(zip(manual.classes, parts, strict=True))
    rows = "\n".join(f"| Class {name} | {item} |" for name, item in pairs)
    table = Block(f"Parts by class\n{rows}", tuple(Fact(f"class {name}", "part", item) for name, item in pairs))
    return manual.draft(
        "cross_reference",
        2,
        "span",
        [manual.needs(manual.device, place, letter), table],
        question=f"Which part does the {place} of the {manual.device} take?",
        answer=part,
        work=f"The {place} takes a Class {letter} part. The Class {letter} part is the {part}.",
        query={"op": "path", "start": manual.device, "path": [f"part class of {place}", "part"]},
    )


KINDS: dict[str, Kind] = {
    "limit": Kind(1, 2, _limit),
    "reserve": Kind(2, 2, _reserve),
    "kit": Kind(2, 2, _kit),
    "next_step": Kind(1, 2, _next_step),
    "cross_reference": Kind(2, 3, _cross_reference),
}


def draft(rng: Random, shape: Shape) -> Draft:
    """One technical manual with its question."""
    return choose_kind(KINDS, shape, rng).make(_Manual(rng, shape))
