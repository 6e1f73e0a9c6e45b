"""A night is called worse when it is, and rarely when it is not."""

from dataclasses import replace

import numpy as np
import pytest
from evaluation_tables import SCORES
from scipy import stats

from qwenlong_core.promotion.regression import changes, confirmed_falls, unscored_share


def nights(make, rate, count, seed, items=90):
    rng = np.random.default_rng(seed)
    domains = ["math", "logical", "multihop"] * (items // 3)
    blank = make([0] * items, domains=domains)
    # Only the answers are drawn anew: computing every night's scores would take most of the time.
    draws = (rng.random(items) < rate for _ in range(count))
    return [
        replace(blank, samples=tuple(replace(s, score=SCORES[int(ok)]) for s, ok in zip(blank.samples, draw)))
        for draw in draws
    ]


def test_change_is_the_paired_mean_and_its_t_test(make_evaluation):
    tonight, one, two = make_evaluation([0, 0, 1, 0]), make_evaluation([1, 1, 1, 0]), make_evaluation([1, 0, 1, 0])
    (change,) = changes(tonight, [one, two])
    gains = [-1, -0.5, 0, 0]
    assert (change.name, change.mean, change.items) == ("generated", np.mean(gains), 4)
    assert change.p == pytest.approx(stats.ttest_1samp(gains, 0, alternative="less").pvalue)
    assert change.words == "generated fell by 0.375 over 4 items (p = 0.108)"


def test_a_fall_in_one_benchmark_is_found_and_confirmed(make_evaluation):
    before = nights(make_evaluation, 0.9, 3, seed=1)
    domains = ["math", "logical", "multihop"] * 30
    broken = make_evaluation([0 if d == "math" else 1 for d in domains], domains=domains)
    found = changes(broken, before)
    assert [change.name for change in found if change.significant] == ["generated-math"]
    assert [change.name for change in confirmed_falls(found, found)] == ["generated-math"]
    assert confirmed_falls(found, changes(before[0], before[1:])) == []


def test_quiet_nights_seldom_alarm_and_confirmed_ones_hardly_ever(make_evaluation):
    alarms, confirmed, trials = 0, 0, 300
    for seed in range(trials):
        *before, first, second = nights(make_evaluation, 0.5, 5, seed)
        looks = changes(first, before), changes(second, before)
        alarms += any(change.significant for change in looks[0])
        confirmed += bool(confirmed_falls(*looks))
    assert stats.binomtest(alarms, trials, 0.05, alternative="greater").pvalue > 0.001
    assert confirmed <= 0.02 * trials


def test_unscored_answers_are_no_fall(make_evaluation):
    before = make_evaluation([1] * 10)
    down = make_evaluation([None] * 8 + [1, 1])
    (change,) = changes(down, [before])
    assert (change.mean, change.items, change.significant) == (0, 2, False)
    assert unscored_share(down) == 0.8


def test_other_rows_are_refused(make_evaluation):
    tonight = make_evaluation([1, 0])
    with pytest.raises(ValueError, match="same rows only"):
        changes(tonight, [])
