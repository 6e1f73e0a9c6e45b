"""May a challenger take the alias ``champion``? Yes only when every condition is proven; else no.

The gate fails closed: an item that is missing, a score that the judge could not give, a dataset that
changed or a file that cannot be read each end in a refusal with its reason, never in an exception
that someone might retry until it passes. Stage command:
``python -m qwenlong_core.evaluation.promotion``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean

import numpy as np

from qwenlong_core.config import PromotionSettings
from qwenlong_core.evaluation import statistics
from qwenlong_core.evaluation.results import Evaluation, read_evaluation
from qwenlong_core.evaluation.samples import Sample, by_example
from qwenlong_core.jobs import OUTPUT, PromoteJob, stage_main

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """One condition of the gate, with its numbers in words."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """The gate's verdict."""

    promote: bool
    reason: str
    """One sentence: what was proven, or everything that was not."""
    conditions: tuple[Condition, ...]
    gain: statistics.Estimate | None = None
    """Challenger minus champion over all items; ``None`` when the items could not be paired."""
    domains: Mapping[str, statistics.Estimate] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """Both models' item scores, ``[N]`` each, in the same order."""

    challenger: Sequence[float]
    champion: Sequence[float]
    documents: Sequence[str]
    domains: Sequence[str]


def _item_value(group: Sequence[Sample], unscored: float) -> float:
    values = [sample.accuracy if sample.has_verdict else unscored for sample in group]
    return fmean(values)


def pair_items(challenger: Sequence[Sample], champion: Sequence[Sample]) -> Pairs:
    """Item scores of both: an unscored sample counts 0 for the challenger and 1 for the champion.

    Raises:
        ValueError: the two do not hold the same items.
    """
    new, old = dict(by_example(challenger)), dict(by_example(champion))
    if new.keys() != old.keys():
        raise ValueError("the two evaluations hold different items: evaluate both on the same rows")
    return Pairs(
        challenger=[_item_value(group, 0.0) for group in new.values()],
        champion=[_item_value(old[item], 1.0) for item in new],
        documents=[group[0].document_id for group in new.values()],
        domains=[group[0].domain for group in new.values()],
    )


def _preconditions(challenger: Evaluation, champion: Evaluation) -> list[Condition]:
    new, old = challenger.plan, champion.plan
    missing = {
        name: len(evaluation.plan.expected ^ {sample.key for sample in evaluation.samples})
        for name, evaluation in (("challenger", challenger), ("champion", champion))
    }
    same = new.dataset_digest == old.dataset_digest and set(new.items) == set(old.items)
    differing = sorted(k for k in new.protocol.keys() | old.protocol.keys() if new.protocol.get(k) != old.protocol.get(k))
    differing += ["samples"] if new.samples != old.samples else []
    return [
        Condition(
            name="another model",
            passed=new.model_digest != old.model_digest,
            detail=f"challenger {new.model_digest[:12]}, champion {old.model_digest[:12]}",
        ),
        Condition(
            name="same data",
            passed=same,
            detail=f"dataset {new.dataset_digest[:12]} with {len(new.items)} items against "
            f"{old.dataset_digest[:12]} with {len(old.items)}",
        ),
        Condition(
            name="same protocol",
            passed=not differing,
            detail=f"differs in {', '.join(differing)}" if differing else "sampling, limits and judge are equal",
        ),
        Condition(
            name="complete",
            passed=not any(missing.values()),
            detail=f"of {len(new.expected)} samples {missing['challenger']} are missing or unknown for the "
            f"challenger, {missing['champion']} for the champion",
        ),
    ]  # fmt: skip


def _share(name: str, who: str, hits: Sequence[bool], ceiling: float) -> Condition:
    share = float(np.mean(hits)) if hits else 1.0
    return Condition(
        name=f"{name} of the {who}",
        passed=share <= ceiling,
        detail=f"{share:.1%} ({sum(hits)} of {len(hits)}), ceiling {ceiling:.1%}",
    )


def _rates(challenger: Evaluation, champion: Evaluation, settings: PromotionSettings) -> list[Condition]:
    conditions = [
        _share("unscored share", who, [not s.has_verdict for s in samples], settings.max_unscored_share)
        for who, samples in (("challenger", challenger.samples), ("champion", champion.samples))
    ]
    cut = [sample.finish_reason == "length" for sample in challenger.samples]
    return [*conditions, _share("truncated share", "challenger", cut, settings.max_truncated_share)]


def _gain(gain: statistics.Estimate, margin: float, confidence: float) -> Condition:
    if gain.low is None:
        detail = f"{gain.items} items of {gain.documents} document give no interval: evaluate on more documents"
        return Condition(name="gain", passed=False, detail=detail)
    effect = statistics.minimum_detectable_effect(gain.standard_error or 0.0, gain.documents, confidence=confidence)
    unseen = f"; a true gain below about {margin + effect:.3f} is likely to go unnoticed" if effect else ""
    return Condition(
        name="gain",
        passed=gain.low > margin,
        detail=f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] over {gain.items} items of "
        f"{gain.documents} documents; the lower end must lie above {margin:+.3f}{unseen}",
    )


def _domain_conditions(
    pairs: Pairs, estimates: Mapping[str, statistics.Estimate], max_loss: float, confidence: float
) -> list[Condition]:
    """A domain's mean may not fall by more than ``max_loss``.

    The point estimate decides: waiting for proof of a loss would let a small benchmark be ruined.
    For a domain that fails, Holm's test over all domains says whether chance could explain it.
    """
    gains, documents = np.subtract(pairs.challenger, pairs.champion), np.array(pairs.documents)
    domains = np.array(pairs.domains)
    raw = [
        statistics.loss_p_value(gains[domains == name], list(documents[domains == name]), max_loss) for name in estimates
    ]
    conditions = []
    for (name, estimate), p in zip(estimates.items(), statistics.holm(raw), strict=True):
        passed = estimate.mean >= -max_loss
        proof = "is proven" if p <= 1 - confidence else "may be chance"
        doubt = "" if passed else f"; that it fell by more {proof} (p = {p:.3f}, Holm-adjusted)"
        detail = f"{estimate.mean:+.3f} over {estimate.items} items, may fall by {max_loss:.3f}{doubt}"
        conditions.append(Condition(name=f"no loss in {name}", passed=passed, detail=detail))
    return conditions


def _domain_estimates(pairs: Pairs, *, resamples: int, confidence: float, seed: int) -> dict[str, statistics.Estimate]:
    new, old, documents, domains = map(np.array, (pairs.challenger, pairs.champion, pairs.documents, pairs.domains))
    return {
        name: statistics.paired_difference(
            new[domains == name], old[domains == name], list(documents[domains == name]),
            resamples=resamples, confidence=confidence, seed=seed,
        )
        for name in sorted(set(pairs.domains))
    }  # fmt: skip


def _verdict(conditions: Sequence[Condition]) -> tuple[bool, str]:
    failed = [condition for condition in conditions if not condition.passed]
    if not failed:
        return True, "promoted: every condition holds"
    return False, "refused: " + "; ".join(f"{condition.name}: {condition.detail}" for condition in failed)


def refusal(reason: str) -> Decision:
    """A refusal before anything could be compared."""
    condition = Condition(name="readable", passed=False, detail=reason)
    return Decision(promote=False, reason=f"refused: {reason}", conditions=(condition,))


def decide(
    challenger: Evaluation, champion: Evaluation, settings: PromotionSettings,
    *, resamples: int, confidence: float, seed: int,
) -> Decision:  # fmt: skip
    """Compare two evaluations of the same items under the promotion settings.

    Everything is compared that can be: where the items cannot be paired, the refusal says so and
    the statistics are left out.
    """
    before = _preconditions(challenger, champion)
    rates = _rates(challenger, champion, settings)
    by_name = {condition.name: condition.passed for condition in before}
    if not (by_name["same data"] and by_name["complete"]):
        promote, reason = _verdict([*before, *rates])
        return Decision(promote=promote, reason=reason, conditions=(*before, *rates))
    pairs = pair_items(challenger.samples, champion.samples)
    gain = statistics.paired_difference(
        pairs.challenger, pairs.champion, pairs.documents, resamples=resamples, confidence=confidence, seed=seed
    )
    domains = _domain_estimates(pairs, resamples=resamples, confidence=confidence, seed=seed)
    conditions = (
        *before,
        _gain(gain, settings.margin, confidence),
        *_domain_conditions(pairs, domains, settings.max_domain_loss, confidence),
        *rates,
    )
    promote, reason = _verdict(conditions)
    return Decision(promote=promote, reason=reason, conditions=conditions, gain=gain, domains=domains)


def decision_markdown(decision: Decision) -> str:
    """The decision as a table that people read in a console, in Prefect or on the page."""
    rows = [f"| {'pass' if c.passed else '**FAIL**'} | {c.name} | {c.detail} |" for c in decision.conditions]
    title = "Promoted" if decision.promote else "Refused"
    return "\n".join([f"# {title}", "", decision.reason, "", "| | condition | numbers |", "|---|---|---|", *rows, ""])


def run(job: PromoteJob, inputs: Mapping[str, Path], work: Path) -> None:
    """The promotion stage: inputs ``challenger`` and ``champion``, output ``decision.json`` and
    ``decision.md``. A refusal is a normal result."""
    try:
        challenger, champion = read_evaluation(inputs["challenger"]), read_evaluation(inputs["champion"])
    except ValueError as error:
        decision = refusal(str(error))
    else:
        decision = decide(
            challenger, champion, job.promotion,
            resamples=job.bootstrap_resamples, confidence=job.confidence, seed=job.seed,
        )  # fmt: skip
    (work / OUTPUT / "decision.json").write_text(json.dumps(asdict(decision), indent=1))
    (work / OUTPUT / "decision.md").write_text(decision_markdown(decision))
    logger.info("promote | %s", decision.reason)


if __name__ == "__main__":
    stage_main(PromoteJob, run)
