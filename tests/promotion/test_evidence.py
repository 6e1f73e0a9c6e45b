"""The evidence over all nights: right on average, seldom wrong at any night, and it finds a slow fall."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from qwenlong_core.promotion.evidence import (
    bet,
    document_scores,
    drifts,
    enough,
    evidence,
    night_p_value,
    night_p_values,
)

DOCUMENTS = 40


def night(rng: np.random.Generator, rates: np.ndarray) -> dict[str, float]:
    """Answers to documents that are right with these probabilities."""
    return {f"d{n}": float(right) for n, right in enumerate(rng.random(len(rates)) < rates)}


def p_values(seed: int, nights: int, fall: float = 0.0, since: int = 0) -> list[float]:
    """P-values of a series in which the model loses ``fall`` from night ``since`` on."""
    rng = np.random.default_rng(seed)
    rates, past, found = rng.uniform(0.2, 1, DOCUMENTS), [], []
    for number in range(nights):
        tonight = night(rng, rates - fall * (number >= since))
        if past:
            found.append(night_p_value(tonight, past, seed=1_000 * seed + number, draws=199))
        past.append(tonight)
    return found


def test_the_bet_is_fair():
    whole, _ = integrate.quad(bet, 1e-12, 1, points=[1e-9, 1e-6, 1e-3], limit=500)
    assert whole == pytest.approx(1, abs=0.05), "what is left lies below the smallest p-value"
    assert bet(0.001) > 20
    assert bet(0.01) > 1
    assert bet(0.01) < 20
    assert bet(0.5) < 1


def test_evidence_by_hand():
    """Half of the 1 is played on the first night, a sixth joins on the second, a third is still held back."""
    one, two = bet(0.01), bet(0.2)
    assert evidence([]) == 1
    assert evidence([0.01]) == pytest.approx(one / 2 + 1 / 2)
    assert evidence([0.01, 0.2]) == pytest.approx((one / 2 + 1 / 6) * two + 1 / 3)
    assert enough(3, 0.95) == pytest.approx(60)


def test_a_p_value_by_hand():
    """Two documents, one earlier night each: of the four orders, one is as bad as tonight."""
    found = [night_p_value({"a": 0.0, "b": 0.0}, [{"a": 1.0, "b": 1.0}], seed, draws=2_000) for seed in range(20)]
    assert min(found) > 0 and max(found) < 0.28
    better = [night_p_value({"a": 1.0, "b": 1.0}, [{"a": 0.0, "b": 0.0}], seed, draws=2_000) for seed in range(20)]
    assert min(better) > 0.72
    assert night_p_value({"a": 0.0}, [{"b": 1.0}], 0) is None
    assert night_p_value({"a": 0.0}, [], 0) is None


def test_p_values_of_an_unchanged_model_are_uniform_and_independent():
    series = np.array([p_values(seed, nights=6) for seed in range(150)])
    assert stats.kstest(series.ravel(), "uniform").pvalue > 0.001
    for one in range(4):
        assert abs(stats.spearmanr(series[:, one], series[:, one + 1]).statistic) < 0.3


def test_without_a_change_the_evidence_is_seldom_ever_enough():
    """At the best night of 20, over 100 series; at 80% one in five may be wrong."""
    wrong = 0
    for seed in range(100):
        found = p_values(seed, nights=21)
        wrong += max(evidence(found[:count]) for count in range(1, 21)) >= enough(1, 0.8)
    assert stats.binomtest(wrong, 100, 0.2, alternative="greater").pvalue > 0.001


def test_a_fall_that_no_night_shows_adds_up():
    alone, found = 0, 0
    for seed in range(20):
        series = p_values(seed, nights=30, fall=0.15, since=5)
        alone += min(series) < 0.001
        found += any(evidence(series[:count]) >= enough(1, 0.95) for count in range(1, 30))
    assert found >= 15 and alone < 15


def test_an_answer_without_a_verdict_leaves_its_document_out(make_evaluation):
    made = make_evaluation([1, 0, None, 1], documents=["a", "a", "b", "c"])
    assert document_scores(made) == {"generated": {"a": 0.5, "c": 1.0}}


def test_a_fall_must_show_in_every_look_at_a_night(make_evaluation):
    good, bad = make_evaluation([1] * 30), make_evaluation([0] * 30)
    [alone] = night_p_values(7, [bad], [good]).values()
    [both] = night_p_values(7, [bad, bad], [good]).values()
    [other] = night_p_values(7, [bad, good], [good]).values()
    assert alone < 0.001 and both == alone and other > alone
    assert night_p_values(7, [bad], []) == {}


def test_what_has_fallen_is_named_with_its_limit():
    quiet = [{"math": 0.5, "logical": 0.5}] * 3
    assert drifts(quiet, {"math": 0.4, "logical": 0.6}, 0.95) == ()
    [words] = drifts([*quiet, {"math": 1e-3, "logical": 0.5}], {"math": 1e-3, "logical": 0.5}, 0.95)
    value = evidence([0.5, 0.5, 0.5, 1e-3, 1e-3])
    assert words == f"math (evidence {value:,.0f}, limit 40)" and value >= 40
