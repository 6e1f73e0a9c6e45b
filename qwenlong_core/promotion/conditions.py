"""The conditions of the promotion gate, each with its numbers in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qwenlong_core.evaluation import statistics
from qwenlong_core.evaluation.average import AVERAGE, average_gain
from qwenlong_core.evaluation.pairs import Pairs
from qwenlong_core.evaluation.published import BENCHMARKS
from qwenlong_core.evaluation.results import Evaluation
from qwenlong_core.evaluation.scores import Bootstrap
from qwenlong_core.promotion.decision import Condition
from qwenlong_core.settings.evaluation import PromotionSettings


def preconditions(challenger: Evaluation, champion: Evaluation) -> list[Condition]:
    """What must hold before the scores mean anything: another model, same data, same protocol, nothing missing."""
    new, old = challenger.plan, champion.plan
    missing = {
        name: len(evaluation.plan.expected ^ {sample.key for sample in evaluation.samples})
        for name, evaluation in (("challenger", challenger), ("champion", champion))
    }
    same = new.dataset_digest == old.dataset_digest and set(new.items) == set(old.items)
    differing = sorted(
        k for k in new.protocol.keys() | old.protocol.keys() if new.protocol.get(k) != old.protocol.get(k)
    )
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
            detail=(
                f"dataset {new.dataset_digest[:12]} with {len(new.items)} items against "
                f"{old.dataset_digest[:12]} with {len(old.items)}"
            ),
        ),
        Condition(
            name="same protocol",
            passed=not differing,
            detail=f"differs in {', '.join(differing)}" if differing else "sampling, limits and judge are equal",
        ),
        Condition(
            name="complete",
            passed=not any(missing.values()),
            detail=(
                f"of {len(new.expected)} samples {missing['challenger']} are missing or unknown for the "
                f"challenger, {missing['champion']} for the champion"
            ),
        ),
    ]


def _share(name: str, who: str, hits: Sequence[bool], ceiling: float) -> Condition:
    share = float(np.mean(hits)) if hits else 1.0
    return Condition(
        name=f"{name} of the {who}",
        passed=share <= ceiling,
        detail=f"{share:.1%} ({sum(hits)} of {len(hits)}), ceiling {ceiling:.1%}",
    )


def rates(challenger: Evaluation, champion: Evaluation, settings: PromotionSettings) -> list[Condition]:
    """Ceilings on unscored answers of both models, and on the challenger's truncated ones."""
    conditions = [
        _share("unscored share", who, [not s.has_verdict for s in samples], settings.max_unscored_share)
        for who, samples in (("challenger", challenger.samples), ("champion", champion.samples))
    ]
    # Of the challenger alone: a champion that rambles must not keep a better model out.
    cut = [sample.finish_reason == "length" for sample in challenger.samples]
    return [*conditions, _share("truncated share", "challenger", cut, settings.max_truncated_share)]


def gain_condition(gain: statistics.Estimate, margin: float, confidence: float) -> Condition:
    """The lower end of the interval of the mean gain is above ``margin``; undecided where the upper end alone is."""
    if gain.low is None:
        detail = f"{gain.items} items of {gain.documents} document give no interval: evaluate on more documents"
        return Condition(name="gain", passed=False, undecided=True, detail=detail)
    effect = statistics.minimum_detectable_effect(gain.standard_error or 0.0, gain.documents, confidence=confidence)
    unseen = f"; a true gain below about {margin + effect:.3f} is likely to go unnoticed" if effect else ""
    needed = statistics.items_to_decide(gain, confidence=confidence, threshold=margin)
    more = f"; a gain like this one would be decided on about {needed:,} items" if needed else ""
    return Condition(
        name="gain",
        passed=gain.low > margin,
        undecided=gain.high is not None and gain.low <= margin <= gain.high,
        detail=(
            f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] over {gain.items} items of "
            f"{gain.documents} documents; the lower end must lie above {margin:+.3f}{unseen}{more}"
        ),
    )


def benchmark_gains(pairs: Pairs, bootstrap: Bootstrap) -> dict[str, statistics.Estimate]:
    """Challenger minus champion, for each benchmark."""
    new, old, documents, names = map(np.array, (pairs.challenger, pairs.champion, pairs.documents, pairs.benchmarks))
    return {
        name: statistics.paired_difference(
            new[names == name], old[names == name], list(documents[names == name]), **bootstrap.model_dump()
        )
        for name in sorted(set(pairs.benchmarks))
    }


def average_conditions(gains: Mapping[str, statistics.Estimate]) -> list[Condition]:
    """The average over the paper's seven has not fallen; nothing to ask where none of them is evaluated.

    The mean over items may rise by its largest benchmark alone, FRAMES; the paper compares models by this average.
    """
    missing = [name for name in BENCHMARKS if name not in gains]
    if len(missing) == len(BENCHMARKS):
        return []
    name, gain = f"no loss in the {AVERAGE}", average_gain(gains)
    if gain is None:
        return [Condition(name=name, passed=True, detail=f"there is none: {', '.join(missing)} not evaluated")]
    interval = "no interval" if gain.low is None else f"[{gain.low:+.3f}, {gain.high:+.3f}]"
    detail = f"{gain.mean:+.3f} {interval}, each benchmark counting once; must not lie below 0"
    return [Condition(name=name, passed=gain.mean >= 0, detail=detail)]


def _unseen_loss(estimate: statistics.Estimate, level: float) -> str:
    """The size of loss that this many items would show, so that a reader of "pass" knows what could be missed."""
    if not estimate.standard_error:
        return ""
    # One-sided at ``level`` is two-sided at ``1 - 2 * level``.
    effect = statistics.minimum_detectable_effect(estimate.standard_error, estimate.documents, confidence=1 - 2 * level)
    return f"; a true loss below about {effect:.3f} is likely to go unnoticed"


def loss_conditions(
    pairs: Pairs, gains: Mapping[str, statistics.Estimate], settings: PromotionSettings
) -> list[Condition]:
    """No benchmark has a significant drop larger than its margin.

    Significant: by one-sided tests, Holm-corrected over all benchmarks, so that chance alone refuses a model at most
    ``1 - loss_confidence`` of the time. Larger: its mean fell by more than its margin.
    """
    differences, documents = np.subtract(pairs.challenger, pairs.champion), np.array(pairs.documents)
    names, level = np.array(pairs.benchmarks), 1 - settings.loss_confidence
    raw = [statistics.loss_p_value(differences[names == name], list(documents[names == name])) for name in gains]
    conditions = []
    for (name, estimate), p in zip(gains.items(), statistics.holm(raw), strict=True):
        margin = settings.max_loss_of.get(name, settings.max_loss)
        beyond, proven = estimate.mean < -margin, p <= level
        doubt = (
            f"; that it fell {'is proven' if proven else 'may be chance'} (p = {p:.3f}, Holm-adjusted)"
            if estimate.mean < 0
            else ""
        )
        detail = f"{estimate.mean:+.3f} over {estimate.items} items, may fall by {margin:.3f}{doubt}"
        # Holm's strictest level, since it depends on the other benchmarks which level this one would meet.
        detail += "" if beyond and proven else _unseen_loss(estimate, level / len(gains))
        conditions.append(Condition(name=f"no loss in {name}", passed=not (beyond and proven), detail=detail))
    if unknown := sorted(settings.max_loss_of.keys() - gains.keys()):
        detail = f"promotion.max_loss_of names {', '.join(unknown)}; the benchmarks are {', '.join(gains)}"
        conditions.append(Condition(name="known benchmarks", passed=False, detail=detail))
    return conditions
