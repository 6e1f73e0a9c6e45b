"""May a challenger take the alias ``champion``? Only if every condition is proven.

    two evaluations -> preconditions -> paired gain, losses per benchmark, rates -> Decision

A refusal is ``INCONCLUSIVE`` where nothing speaks against the challenger but that its gain is not proven yet: the
interval crosses the margin. It is not promoted either; more items could decide.

The gate fails closed. A missing item, an answer that the judge could not score, a dataset that changed and a file that
cannot be read are refusals with their reason, not exceptions, which a retry might make pass. Stage command::

    python -m qwenlong_core.promotion.gate --job job.json --input challenger=DIR --input champion=DIR ... --work DIR
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from qwenlong_core.evaluation import statistics
from qwenlong_core.evaluation.average import average_gain
from qwenlong_core.evaluation.pairs import pair_items
from qwenlong_core.evaluation.results import Evaluation, read_evaluation
from qwenlong_core.evaluation.scores import Bootstrap
from qwenlong_core.jobs import PromoteJob
from qwenlong_core.promotion.conditions import (
    average_conditions,
    benchmark_gains,
    gain_condition,
    loss_conditions,
    preconditions,
    rates,
)
from qwenlong_core.promotion.decision import Condition, Decision, verdict_of, write_decision
from qwenlong_core.promotion.flips import find_flips
from qwenlong_core.promotion.overlap import overlap_condition
from qwenlong_core.settings.evaluation import PromotionSettings
from qwenlong_core.stage_main import OUTPUT, stage_main

logger = logging.getLogger(__name__)

TRAINED = "trained-"
"""Inputs of this name and a number (``trained-1``) are data that the challenger was trained on."""


def _verdict(conditions: Sequence[Condition]) -> tuple[bool, str]:
    failed = [condition for condition in conditions if not condition.passed]
    if not failed:
        return True, "promoted: every condition holds"
    word = verdict_of(conditions).lower()
    return False, f"{word}: " + "; ".join(f"{condition.name}: {condition.detail}" for condition in failed)


def refusal(reason: str) -> Decision:
    """A refusal because nothing could be compared."""
    condition = Condition(name="readable", passed=False, detail=reason)
    return Decision(promote=False, reason=f"refused: {reason}", conditions=(condition,))


def decide(
    challenger: Evaluation,
    champion: Evaluation,
    settings: PromotionSettings,
    bootstrap: Bootstrap,
    checks: Sequence[Condition] = (),
) -> Decision:
    """Compare two evaluations of the same items under the promotion settings.

    All conditions are evaluated, so that a refusal names every reason at once. Where the items cannot be paired, the
    statistics are left out.

    Args:
        challenger: The model that may become champion.
        champion: The model to beat.
        settings: Margins and ceilings.
        bootstrap: How intervals are drawn.
        checks: Conditions that were checked before on other evidence, such as the artifacts.
    """
    before = [*checks, *preconditions(challenger, champion)]
    after = rates(challenger, champion, settings)
    by_name = {condition.name: condition.passed for condition in before}
    if not (by_name["same data"] and by_name["complete"]):  # then the items cannot be paired
        promote, reason = _verdict([*before, *after])
        return Decision(promote=promote, reason=reason, conditions=(*before, *after))
    pairs = pair_items(challenger.samples, champion.samples)
    gain = statistics.paired_difference(pairs.challenger, pairs.champion, pairs.documents, **bootstrap.model_dump())
    gains = benchmark_gains(pairs, bootstrap)
    conditions = (
        *before,
        gain_condition(gain, settings.margin, bootstrap.confidence),
        *average_conditions(gains),
        *loss_conditions(pairs, gains, settings),
        *after,
    )
    promote, reason = _verdict(conditions)
    return Decision(
        promote=promote,
        reason=reason,
        conditions=conditions,
        gain=gain,
        average=average_gain(gains),
        benchmarks=gains,
        items_to_decide=_items_to_decide(conditions, gain, settings.margin, bootstrap.confidence),
        flips=find_flips(challenger.samples, champion.samples, pairs),
    )


def _items_to_decide(
    conditions: Sequence[Condition], gain: statistics.Estimate, margin: float, confidence: float
) -> int | None:
    if verdict_of(conditions) != "INCONCLUSIVE":
        return None  # more items would not promote it
    return statistics.items_to_decide(gain, confidence=confidence, threshold=margin)


def _verified(job: PromoteJob) -> Condition:
    names = ", ".join(f"{name} {digest[:12]}" for name, digest in sorted(job.verified.items()))
    detail = f"every file equals its manifest: {names}" if names else "no artifact was checked against its manifest"
    return Condition(name="artifacts verified", passed=bool(names), detail=detail)


def judge_promotion(job: PromoteJob, inputs: Mapping[str, Path]) -> Decision:
    """The decision on the evaluations in the input folders; what cannot be read is a refusal."""
    if job.faults:
        return refusal("; ".join(job.faults))
    try:
        challenger, champion = read_evaluation(inputs["challenger"]), read_evaluation(inputs["champion"])
        trained = {name: folder for name, folder in inputs.items() if name.startswith(TRAINED)}
        overlap = overlap_condition(challenger.plan, inputs["rows"], trained.values(), job.near_duplicates)
    except ValueError as error:
        return refusal(str(error))
    bootstrap = Bootstrap(resamples=job.bootstrap_resamples, confidence=job.confidence, seed=job.seed)
    return decide(challenger, champion, job.promotion, bootstrap, (_verified(job), overlap))


def run(job: PromoteJob, inputs: Mapping[str, Path], work: Path) -> None:
    """The promotion stage: writes ``decision.json`` and ``decision.md``. A refusal is a normal result.

    Inputs: ``challenger`` and ``champion`` (evaluations), ``rows`` (the prepared data that they answered) and
    ``trained-1 ...`` (the data that the challenger was trained on).
    """
    decision = judge_promotion(job, inputs)
    write_decision(decision, work / OUTPUT)
    logger.info("promote | %s", decision.reason)


if __name__ == "__main__":
    stage_main(PromoteJob, run)
