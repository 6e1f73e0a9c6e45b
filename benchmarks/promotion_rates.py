"""False and true promotions: how often the gate promotes a model without a gain, and one with a gain.

Every comparison draws two models' answers from a known truth and passes them to the real ``decide``. In that truth an
answer is right with probability sigmoid(level + document + item + model x document). A document's difficulty is shared
by its questions and by both models; the last term makes a model's gain vary between documents, which is why intervals
are clustered. The champion is right on 50% of the items.

    python benchmarks/promotion_rates.py        # all tables of docs/evaluation.md, about 40 minutes
    python benchmarks/promotion_rates.py --tables 3     # the gate beside gates that compare means with a threshold
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.special import stdtrit

from qwenlong_core.evaluation.plan import Plan
from qwenlong_core.evaluation.results import Evaluation
from qwenlong_core.evaluation.samples import Sample
from qwenlong_core.evaluation.scores import Bootstrap, compute_scores
from qwenlong_core.promotion.decision import Decision
from qwenlong_core.promotion.gate import decide
from qwenlong_core.records import Score
from qwenlong_core.settings.evaluation import PromotionSettings

DOCUMENT, ITEM, INTERACTION = 1.0, 1.0, 0.5
"""Standard deviations, in logits: of a document's difficulty, of an item's difficulty, and of a model's gain between
documents."""

GATE = PromotionSettings()
RIGHT, WRONG = Score(value=1.0, rule=1.0), Score(value=0.0, rule=0.0)


@dataclass(frozen=True)
class Setting:
    """The size of an evaluation and the true gain in accuracy."""

    documents: int
    questions: int
    """Questions per document."""
    gains: tuple[float, ...]
    """True gain in accuracy on each benchmark; documents are dealt to the benchmarks in turn."""


SIZES = ((16, 1), (50, 1), (40, 5), (200, 1), (150, 4), (600, 1))
GAINS = (0.0, 0.05, 0.1)
BENCHMARKS = 3
"""Number of benchmarks in the first table, all with the same gain."""
SEVEN = {
    "none": (0.0,) * 7,
    "+0.05 on all": (0.05,) * 7,
    "+0.10 on three": (0.1,) * 3 + (0.0,) * 4,
    "+0.10 on six, -0.15 on one": (0.1,) * 6 + (-0.15,),
    "+0.10 on six, -0.30 on one": (0.1,) * 6 + (-0.3,),
}
PER_BENCHMARK = (25, 50, 200)
"""Documents per benchmark in the second table, with one question each."""


CURVE = (-0.05, -0.02, 0.0, 0.02, 0.05, 0.1)
"""True gains of the third table, the same on all benchmarks."""
CURVE_SIZES = ((50, 1), (200, 1), (600, 1))
THRESHOLDS = (0.0, 0.01, 0.02, 0.05)
"""Gates that promote where the mean gain is above a threshold, as leaderboards and dashboards do."""


def first(documents: int, questions: int, gain: float) -> Setting:
    return Setting(documents, questions, (gain,) * BENCHMARKS)


def second(documents: int, truth: str) -> Setting:
    return Setting(7 * documents, 1, SEVEN[truth])


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


@functools.cache
def level_for(accuracy: float) -> float:
    """The level, in logits, at which a model has this accuracy; found by bisection over fixed draws."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, (DOCUMENT**2 + ITEM**2 + INTERACTION**2) ** 0.5, 400_000)
    low, high = -5.0, 5.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if sigmoid(middle + noise).mean() < accuracy else (low, middle)
    return middle


def draw_answers(setting: Setting, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Whether challenger and champion are right, ``[documents, questions]`` each."""
    shape = (setting.documents, setting.questions)
    difficulty = rng.normal(0, DOCUMENT, (setting.documents, 1)) + rng.normal(0, ITEM, shape)
    challenger = [[level_for(0.5 + setting.gains[d % len(setting.gains)])] for d in range(setting.documents)]
    answers = []
    for level in (np.array(challenger), level_for(0.5)):
        taste = rng.normal(0, INTERACTION, (setting.documents, 1))
        answers.append(rng.random(shape) < sigmoid(level + difficulty + taste))
    return answers[0], answers[1]


def sample_of(document: int, question: int, benchmarks: int, score: Score) -> Sample:
    return Sample(
        example_id=f"{document:04d}-{question}", document_id=f"{document:04d}",
        domain="math", source=f"b{document % benchmarks}", sample=0, prompt_digest="", prompt_tokens=1,
        lost_tokens=0, depth=None, completion="", num_tokens=1, finish_reason="stop",
        score=score, metrics={}, seconds=0.0,
    )  # fmt: skip


@functools.cache
def both_samples(documents: int, questions: int, benchmarks: int) -> list[tuple[Sample, Sample]]:
    """The wrong and the right sample of every item; documents are dealt to the benchmarks in turn."""
    return [
        (sample_of(document, question, benchmarks, WRONG), sample_of(document, question, benchmarks, RIGHT))
        for document in range(documents)
        for question in range(questions)
    ]


def to_evaluation(model: str, right: np.ndarray, benchmarks: int) -> Evaluation:
    """An evaluation with one sample per item."""
    pairs = both_samples(*right.shape, benchmarks)
    samples = tuple(pair[value] for pair, value in zip(pairs, right.ravel().tolist(), strict=True))
    items = tuple(sample.example_id for sample in samples)
    plan = Plan(model_digest=model, dataset_digest="d", items=items, samples=1, protocol={}, seed=0)
    bootstrap = Bootstrap(resamples=100, confidence=0.95, seed=0)
    return Evaluation(plan=plan, samples=samples, scores=compute_scores(samples[:1], bootstrap), bootstrap=bootstrap)


def compare(
    setting: Setting, comparisons: int, seed: int, resamples: int = 1_000, gate: PromotionSettings = GATE
) -> list[Decision]:
    """Decisions of the real gate on fresh draws of both models."""
    rng = np.random.default_rng(seed)
    decisions = []
    for index in range(comparisons):
        challenger, champion = draw_answers(setting, rng)
        new = to_evaluation("challenger", challenger, len(setting.gains))
        old = to_evaluation("champion", champion, len(setting.gains))
        bootstrap = Bootstrap(resamples=resamples, confidence=0.95, seed=index)
        decisions.append(decide(new, old, gate, bootstrap))
    return decisions


def gain_proven(decision: Decision) -> bool:
    """Whether the gain was significant, regardless of single benchmarks."""
    return next(condition.passed for condition in decision.conditions if condition.name == "gain")


def loss_found(decision: Decision) -> bool:
    """Whether the challenger was refused for a loss on a benchmark."""
    return any(not condition.passed for condition in decision.conditions if condition.name.startswith("no loss"))


def loss_seen(decision: Decision) -> bool:
    """What a rule without a test would refuse: the mean of a benchmark fell by more than its margin."""
    return any(gain.mean < -GATE.max_loss for gain in decision.benchmarks.values())


def loss_possible(decision: Decision) -> bool:
    """What a rule that demands proof would refuse: a one-sided test at 95% does not rule out that a benchmark lost its
    margin or more."""
    return any(
        gain.standard_error is None
        or gain.mean - stdtrit(gain.documents - 1, 0.95) * gain.standard_error <= -GATE.max_loss
        for gain in decision.benchmarks.values()
    )


def share(decisions: list[Decision], event: Callable[[Decision], bool]) -> str:
    return f"{np.mean([event(decision) for decision in decisions]):.1%}"


EVENTS: dict[str, Callable[[Decision], bool]] = {
    "gain proven": gain_proven,
    "loss found": loss_found,
    "mean fell by more": loss_seen,
    "loss not ruled out": loss_possible,
    "promoted": lambda decision: decision.promote,
}
"""Columns of the second table."""


def mean_above(threshold: float) -> Callable[[Decision], bool]:
    """The decision of a gate that looks at the mean gain alone."""
    return lambda decision: decision.gain is not None and decision.gain.mean > threshold


GATES: dict[str, Callable[[Decision], bool]] = {
    "this gate": lambda decision: decision.promote,
    **{f"mean > {threshold:+.2f}": mean_above(threshold) for threshold in THRESHOLDS},
    "inconclusive": lambda decision: decision.verdict == "INCONCLUSIVE",
}
"""Columns of the third table: who promotes, and how often this gate asks for more items."""


def operating_curve(comparisons: int, seed: int, gate: PromotionSettings) -> None:
    """Print the third table: how often each gate promotes, by size and true gain."""
    print(f"\n| documents x questions | true gain | {' | '.join(GATES)} |\n|{'---|' * (2 + len(GATES))}")
    for (documents, questions), gain in product(CURVE_SIZES, CURVE):
        made = compare(first(documents, questions, gain), comparisons, seed, gate=gate)
        shares = [share(made, event) for event in GATES.values()]
        print(f"| {documents} x {questions} | {gain:+.2f} | {' | '.join(shares)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--loss-confidence", type=float, default=GATE.loss_confidence)
    parser.add_argument("--tables", type=int, nargs="+", choices=(1, 2, 3), default=(1, 2, 3))
    args = parser.parse_args()
    gate = GATE.model_copy(update={"loss_confidence": args.loss_confidence})
    if 1 in args.tables:
        print("| documents x questions | true gain | gain proven | promoted |\n|---|---|---|---|")
        for (documents, questions), gain in product(SIZES, GAINS):
            made = compare(first(documents, questions, gain), args.comparisons, args.seed, gate=gate)
            proven, promoted = share(made, gain_proven), share(made, lambda decision: decision.promote)
            print(f"| {documents} x {questions} | {gain:+.2f} | {proven} | {promoted} |", flush=True)
    if 2 in args.tables:
        print(f"\n| items each | true gain | {' | '.join(EVENTS)} |\n|{'---|' * (2 + len(EVENTS))}")
        for documents, truth in product(PER_BENCHMARK, SEVEN):
            made = compare(second(documents, truth), args.comparisons, args.seed, gate=gate)
            shares = [share(made, event) for event in EVENTS.values()]
            print(f"| {documents} | {truth} | {' | '.join(shares)} |", flush=True)
    if 3 in args.tables:
        operating_curve(args.comparisons, args.seed, gate)


if __name__ == "__main__":
    main()
