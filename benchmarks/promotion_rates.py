"""How often does the promotion gate open by mistake, and how often for a model that really gained?

Every comparison draws two models' answers from a known truth and puts them through the real
``decide``. The truth: an answer is right with probability sigmoid(level + document + item + model x
document); the document's difficulty is shared by its questions and by both models, and the last term
makes a model's gain itself vary from document to document (that is what clustering is for). The
champion is right on 50% of items.

    python benchmarks/promotion_rates.py --comparisons 2000      # the table of docs/evaluation.md
"""

from __future__ import annotations

import argparse
import functools
from dataclasses import dataclass

import numpy as np

from qwenlong_core.config import PromotionSettings
from qwenlong_core.evaluation.plan import Plan
from qwenlong_core.evaluation.promotion import Decision, decide
from qwenlong_core.evaluation.results import Evaluation
from qwenlong_core.evaluation.samples import Sample
from qwenlong_core.evaluation.scores import Bootstrap, compute_scores
from qwenlong_core.records import DOMAINS, Score

DOCUMENT, ITEM, INTERACTION = 1.0, 1.0, 0.5
"""Standard deviations, in logits, of a document's and an item's difficulty and of how much a model's
gain differs between documents."""

RIGHT, WRONG = Score(value=1.0, rule=1.0), Score(value=0.0, rule=0.0)


@dataclass(frozen=True)
class Setting:
    """A size of evaluation, with the true gain in accuracy."""

    documents: int
    questions: int
    """On each document."""
    gain: float

    @property
    def name(self) -> str:
        return f"{self.documents} x {self.questions}"


SIZES = ((16, 1), (50, 1), (40, 5), (200, 1), (150, 4), (600, 1))
GAINS = (0.0, 0.05, 0.1)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@functools.cache
def level_for(accuracy: float) -> float:
    """The level in logits at which a model is right this often, by bisection over fixed draws."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, (DOCUMENT**2 + ITEM**2 + INTERACTION**2) ** 0.5, 400_000)
    low, high = -5.0, 5.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if sigmoid(middle + noise).mean() < accuracy else (low, middle)
    return middle


def draw_answers(setting: Setting, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong of challenger and champion, ``[documents, questions]`` each."""
    shape = (setting.documents, setting.questions)
    difficulty = rng.normal(0, DOCUMENT, (setting.documents, 1)) + rng.normal(0, ITEM, shape)
    answers = []
    for accuracy in (0.5 + setting.gain, 0.5):
        taste = rng.normal(0, INTERACTION, (setting.documents, 1))
        answers.append(rng.random(shape) < sigmoid(level_for(accuracy) + difficulty + taste))
    return answers[0], answers[1]


def to_evaluation(model: str, right: np.ndarray) -> Evaluation:
    """An evaluation with one sample per item; documents go to the domains in turn."""
    samples = tuple(
        Sample(
            example_id=f"{document:04d}-{question}", document_id=f"{document:04d}",
            domain=DOMAINS[document % 3], source="simulated", sample=0, prompt_digest="", prompt_tokens=1,
            lost_tokens=0, depth=None, completion="", num_tokens=1, finish_reason="stop",
            score=RIGHT if right[document, question] else WRONG, metrics={}, seconds=0.0,
        )
        for document in range(right.shape[0])
        for question in range(right.shape[1])
    )  # fmt: skip
    items = tuple(sample.example_id for sample in samples)
    plan = Plan(model_digest=model, dataset_digest="d", items=items, samples=1, protocol={}, seed=0)
    bootstrap = Bootstrap(resamples=100, confidence=0.95, seed=0)
    return Evaluation(plan=plan, samples=samples, scores=compute_scores(samples[:1], bootstrap), bootstrap=bootstrap)


def compare(setting: Setting, comparisons: int, seed: int, resamples: int = 1_000) -> list[Decision]:
    """Decisions of the real gate on fresh draws of both models."""
    rng = np.random.default_rng(seed)
    decisions = []
    for index in range(comparisons):
        challenger, champion = draw_answers(setting, rng)
        pair = to_evaluation("challenger", challenger), to_evaluation("champion", champion)
        decisions.append(decide(*pair, PromotionSettings(), resamples=resamples, confidence=0.95, seed=index))
    return decisions


def gain_proven(decision: Decision) -> bool:
    """Whether the gain alone was proven, whatever the domains say."""
    return next(condition.passed for condition in decision.conditions if condition.name == "gain")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    print("| documents x questions | true gain | gain proven | promoted |\n|---|---|---|---|")
    for documents, questions in SIZES:
        for gain in GAINS:
            setting = Setting(documents, questions, gain)
            decisions = compare(setting, args.comparisons, args.seed)
            proven = np.mean([gain_proven(decision) for decision in decisions])
            promoted = np.mean([decision.promote for decision in decisions])
            print(f"| {setting.name} | {gain:+.2f} | {proven:.1%} | {promoted:.1%} |", flush=True)


if __name__ == "__main__":
    main()
