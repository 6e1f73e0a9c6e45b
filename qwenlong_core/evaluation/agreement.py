"""Does the judge agree with known labels? Cohen's kappa on pairs whose right verdict is known.

The labels hold by construction. A gold answer restated in other words or in another unit is equal to it; a near
miss, another sign or magnitude, a denial and the gold answer of another question are not. For numbers the strict
rule must confirm the label, or the pair is left out.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from qwenlong_core.evaluation.statistics import kappa, kappa_interval
from qwenlong_core.records import Example
from qwenlong_core.rewards.judge import Judge, JudgeQuestion
from qwenlong_core.rewards.rules import rule_score


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledPair:
    """One comparison with its right verdict."""

    question: JudgeQuestion
    equal: bool
    kind: str
    """How it was made: ``restated``, ``other unit``, ``near miss``, ``other sign`` ..."""
    example_id: str
    """Pairs of one question succeed and fail together, so intervals cluster on it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """A judge against the labels."""

    kappa: float | None
    """Over the pairs that got a verdict; ``None`` where none did."""
    low: float | None
    """Lower end of the 95% interval, bootstrapped over questions."""
    high: float | None
    pairs: int
    no_verdict: int
    """Pairs without a verdict, counted neither as agreement nor as disagreement."""
    confusion: dict[str, int]
    """``said equal, is equal`` and the other three."""
    by_kind: dict[str, tuple[int, int]]
    """``(right verdicts, verdicts)`` of each kind of pair."""
    last_error: str = ""
    """Why the last pair without a verdict got none."""

    @property
    def right_share(self) -> float | None:
        """Right verdicts among all verdicts; ``None`` where there is no verdict."""
        given = self.pairs - self.no_verdict
        return sum(right for right, _ in self.by_kind.values()) / given if given else None


Made = tuple[str, bool, str]
"""An answer, whether it is equal to the gold, and how it was made."""

_AMOUNT = re.compile(r"^(-?)(\$?)(\d[\d,]*(?:\.\d+)?)( million| billion)?$")
_SCALES = {" million": 6, " billion": 9}


def _restated(gold: str, number: bool) -> str:
    if number:
        return re.sub(r"^(-?)\$\s*(.+)$", r"\1\2 dollars", re.sub(r"\s*%$", " percent", gold))
    return f"It is {gold}."


def _other_unit(gold: str) -> list[Made]:
    """The same amount written out, or in thousands: ``$1.5 million`` as ``$1,500,000``."""
    found = _AMOUNT.match(gold)
    if not found:
        return []
    sign, currency, digits, scale = found.groups()
    amount = float(digits.replace(",", "")) * 10 ** _SCALES.get(scale, 0)
    if scale:
        return [(f"{sign}{currency}{amount:,.0f}", True, "other unit")]
    return [(f"{sign}{currency}{amount / 1_000:.10g} thousand", True, "other unit")] if amount >= 10_000 else []


def _near_miss(gold: str) -> list[Made]:
    """The gold with its first digit changed by one: it looks alike, and differs by more than any tolerance."""
    found = re.search(r"[1-9]", gold)
    if not found:
        return []
    digit = "8" if found[0] == "9" else str(int(found[0]) + 1)
    return [(f"{gold[: found.start()]}{digit}{gold[found.end() :]}", False, "near miss")]


def _number_traps(gold: str) -> list[Made]:
    made = [
        (gold[1:] if gold.startswith("-") else f"-{gold}", False, "other sign"),
        *_near_miss(gold),
        *_other_unit(gold),
    ]
    if "%" not in gold:
        scaled = gold.replace("million", "billion") if "million" in gold else f"{gold} million"
        made.append((scaled, False, "other magnitude"))
    return made


def _pairs_of(example: Example, other: Example) -> list[Made]:
    gold, number = example.answers[0].strip(), example.answer_type == "number"
    made = [(_restated(gold, number), True, "restated")]
    made += _number_traps(gold) if number else [(f"It is not {gold}.", False, "denied")]
    if number:
        made = [
            (answer, equal, kind) for answer, equal, kind in made if (rule_score(answer, example).value == 1) is equal
        ]
    # Two questions may happen to share an answer, so the strict rule must tell the two apart.
    if rule_score(other.answers[0], example).value == 0:
        made.append((other.answers[0], False, "other gold"))
    return made


def labelled_pairs(examples: Sequence[Example], limit: int, seed: int) -> list[LabelledPair]:
    """At most ``limit`` pairs from rows with answers in words or numbers; half of the pairs are equal.

    Raises:
        ValueError: fewer than two rows are of those types.
    """
    rng = random.Random(seed)
    # Answers of the other types are decided by rule. Sorted, so that the order of the file does not matter.
    usable = sorted((e for e in examples if e.answer_type in ("span", "number")), key=lambda e: e.id)
    if len(usable) < 2:
        raise ValueError(f"{len(usable)} rows with span or number answers: labelled pairs need at least two, add rows")
    rng.shuffle(usable)
    made: dict[bool, list[LabelledPair]] = {True: [], False: []}
    for index, example in enumerate(usable):
        alike = [e for e in usable[index + 1 :] + usable[:index] if e.answer_type == example.answer_type]
        for answer, equal, kind in _pairs_of(example, alike[0]) if alike else []:
            question = JudgeQuestion(question=example.question, golds=example.answers[:1], answer=answer)
            made[equal].append(LabelledPair(question=question, equal=equal, kind=kind, example_id=example.id))
    # Half and half: kappa depends on the share of equal pairs, not on the judge alone.
    half = min(limit // 2, len(made[True]), len(made[False]))
    return rng.sample(made[True], half) + rng.sample(made[False], half)


def _confusion(verdicts: Sequence[tuple[LabelledPair, bool]]) -> dict[str, int]:
    counts = Counter((verdict, pair.equal) for pair, verdict in verdicts)
    names = {True: "equal", False: "different"}
    return {f"said {names[said]}, is {names[true]}": counts[said, true] for said in names for true in names}


async def judge_agreement(judge: Judge, pairs: Sequence[LabelledPair]) -> Agreement:
    """Ask the judge about every pair. Pairs without a verdict are counted separately, not as disagreement."""
    verdicts = await judge.verdicts([pair.question for pair in pairs])
    given = [(pair, verdict.equal) for pair, verdict in zip(pairs, verdicts, strict=True) if verdict.equal is not None]
    labels, judged = [pair.equal for pair, _ in given], [equal for _, equal in given]
    low, high = kappa_interval(labels, judged, [pair.example_id for pair, _ in given]) if given else (None, None)
    kinds = sorted({pair.kind for pair, _ in given})
    right = Counter(pair.kind for pair, equal in given if equal is pair.equal)
    return Agreement(
        kappa=kappa(labels, judged) if given else None,
        low=low,
        high=high,
        pairs=len(pairs),
        no_verdict=len(pairs) - len(given),
        confusion=_confusion(given),
        by_kind={kind: (right[kind], sum(pair.kind == kind for pair, _ in given)) for kind in kinds},
        last_error=next((v.error for v in reversed(verdicts) if v.equal is None), ""),
    )
