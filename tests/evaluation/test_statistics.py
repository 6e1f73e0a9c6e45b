"""Intervals, tests and pass@k against hand-worked values, brute force and scipy."""

from itertools import combinations, product

import numpy as np
import pytest
from scipy import stats

from qwenlong_core.evaluation import statistics as st

BOOT = {"resamples": 20_000, "confidence": 0.95, "seed": 3}


def test_standard_error_of_singletons_is_the_textbook_one():
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    assert st.standard_error(values, list("abcde")) == pytest.approx(stats.sem(values))


def test_standard_error_of_equal_clusters_is_that_of_the_cluster_means():
    values = [1, 1, 0, 0, 1, 0]
    assert st.standard_error(values, list("aabbcc")) == pytest.approx(stats.sem([1, 0, 0.5]))


def test_standard_error_with_unequal_clusters_by_hand():
    # sums 2, 0; sizes 2, 1; mean 2/3; residuals 2/3, -2/3; sqrt(2 * 8/9) / 3
    assert st.standard_error([1, 1, 0], list("aab")) == pytest.approx((16 / 9) ** 0.5 / 3)


def test_duplicated_items_of_a_document_add_no_certainty():
    rng = np.random.default_rng(0)
    once = rng.integers(0, 2, 40)
    ids = [f"d{i}" for i in range(40)]
    single = st.clustered_mean(once, ids, **BOOT)
    fivefold = st.clustered_mean(np.repeat(once, 5), list(np.repeat(ids, 5)), **BOOT)
    assert (fivefold.low, fivefold.high) == pytest.approx((single.low, single.high))
    unclustered = st.clustered_mean(np.repeat(once, 5), [str(i) for i in range(200)], **BOOT)
    assert unclustered.high - unclustered.low < 0.6 * (single.high - single.low)


def test_bootstrap_distribution_matches_full_enumeration():
    sums, sizes = np.array([2.0, 0.0, 1.0]), np.array([2.0, 1.0, 2.0])
    draws = [sums[list(pick)].sum() / sizes[list(pick)].sum() for pick in product(range(3), repeat=3)]
    means = st._bootstrap_means(sums, sizes, 50_000, seed=1)
    for value in sorted(set(draws)):
        assert np.isclose(means, value).mean() == pytest.approx(np.isclose(draws, value).mean(), abs=0.01)


def test_blocks_do_not_change_the_draws(monkeypatch):
    values, ids = np.arange(50) % 3, [str(i) for i in range(50)]
    whole = st.clustered_mean(values, ids, resamples=500, confidence=0.9, seed=5)
    monkeypatch.setattr(st, "_BLOCK", 137)
    assert st.clustered_mean(values, ids, resamples=500, confidence=0.9, seed=5) == whole


@pytest.mark.parametrize("documents", [8, 30])
def test_interval_covers_the_truth_about_as_often_as_it_says(documents):
    rng = np.random.default_rng(11)
    ids = list(np.repeat([str(i) for i in range(documents)], 3))
    hits, trials = 0, 600
    for trial in range(trials):
        p = rng.beta(4, 4, size=documents)
        values = rng.random(documents * 3) < np.repeat(p, 3)
        estimate = st.clustered_mean(values, ids, resamples=400, confidence=0.9, seed=trial)
        hits += estimate.low <= 0.5 <= estimate.high
    assert stats.binomtest(hits, trials, 0.9).pvalue > 0.001


def test_interval_is_near_the_t_interval_for_many_documents():
    values = np.random.default_rng(2).normal(size=200)
    estimate = st.clustered_mean(values, [str(i) for i in range(200)], **BOOT)
    t = stats.t.interval(0.95, 199, values.mean(), stats.sem(values))
    assert (estimate.low, estimate.high) == pytest.approx(t, abs=0.01)


def test_all_wrong_is_not_certainty():
    estimate = st.clustered_accuracy([0] * 12, [str(i) for i in range(12)], **BOOT)
    exact = stats.binomtest(0, 12).proportion_ci(0.95, "exact")
    assert (estimate.low, estimate.high) == pytest.approx((exact.low, exact.high))
    right = st.clustered_accuracy([1] * 12, [str(i) for i in range(12)], **BOOT)
    assert (right.low, right.high) == pytest.approx((1 - exact.high, 1.0))


def test_one_document_has_a_mean_but_no_interval():
    estimate = st.clustered_accuracy([1, 0, 1, 0], ["a"] * 4, **BOOT)
    assert (estimate.mean, estimate.low, estimate.high, estimate.standard_error) == (0.5, None, None, None)


def test_pairing_cancels_item_difficulty():
    rng = np.random.default_rng(4)
    hard = rng.random(100) * 0.9
    ids = [str(i) for i in range(100)]
    paired = st.paired_difference(hard + rng.uniform(0.04, 0.06, 100), hard, ids, **BOOT)
    assert 0.045 < paired.low < 0.05 < paired.high < 0.055
    assert paired.standard_error < st.standard_error(hard, ids) / 10


def test_equal_answers_on_few_documents_do_not_prove_equal_models():
    # share = 1 - 0.025 ** (1/12) = 0.2646 of the documents may differ either way
    same = st.paired_difference([1, 0] * 6, [1, 0] * 6, [str(i) for i in range(12)], **BOOT)
    assert (same.mean, same.low, same.high) == pytest.approx((0, -0.26465, 0.26465), abs=1e-4)


@pytest.mark.parametrize(("documents", "proven"), [(3, False), (5, False), (6, True)])
def test_a_gain_on_every_document_is_proof_where_the_sign_test_says_so(documents, proven):
    gain = st.paired_difference([1] * documents, [0] * documents, [str(i) for i in range(documents)], **BOOT)
    assert (gain.low > 0) == proven
    assert (stats.binomtest(documents, documents, alternative="greater").pvalue < 0.025) == proven


@pytest.mark.parametrize("documents", [2, 3, 5])
def test_few_documents_with_many_questions_seldom_prove_a_gain_that_is_none(documents):
    """Two models of one truth; what they are good at differs from document to document."""
    rng = np.random.default_rng(documents)
    ids = list(np.repeat([str(i) for i in range(documents)], 20))
    proven, trials = 0, 600
    for trial in range(trials):
        new, old = (rng.random(documents * 20) < np.repeat(rng.beta(4, 4, documents), 20) for _ in range(2))
        gain = st.paired_difference(new, old, ids, resamples=400, confidence=0.95, seed=trial)
        assert -1 <= gain.low <= gain.mean <= gain.high <= 1
        proven += gain.low > 0
    assert stats.binomtest(proven, trials, 0.025, alternative="greater").pvalue > 0.001


def test_same_seed_same_interval_other_seed_other_draws():
    values, ids = [0, 1, 1, 0, 1, 1, 0], list("abcdefg")
    first = st.clustered_mean(values, ids, resamples=100, confidence=0.9, seed=1)
    assert first == st.clustered_mean(values, ids, resamples=100, confidence=0.9, seed=1)


def test_mismatched_input_is_refused():
    with pytest.raises(ValueError, match="one cluster id per value"):
        st.clustered_mean([1, 0], ["a"], **BOOT)


def test_loss_p_value_is_the_one_sided_t_test():
    gains = np.random.default_rng(6).normal(-0.2, 1, 25)
    ids = [str(i) for i in range(25)]
    assert st.loss_p_value(gains, ids) == pytest.approx(stats.ttest_1samp(gains, 0, alternative="less").pvalue)
    shifted = stats.ttest_1samp(gains, -0.1, alternative="less").pvalue
    assert st.loss_p_value(gains, ids, margin=0.1) == pytest.approx(shifted)
    assert st.loss_p_value([0, 0], ["a", "b"]) == 1.0


def test_holm_by_hand():
    # sorted .005 .01 .03 .04 times 4 3 2 1: .02 .03 .06 .04 -> running maximum .02 .03 .06 .06
    assert st.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert st.holm([0.9, 0.8]) == [1.0, 1.0]
    assert st.holm([]) == []


def test_minimum_detectable_effect_is_found_with_the_stated_power():
    rng = np.random.default_rng(8)
    size, error = 100, 0.05
    effect = st.minimum_detectable_effect(error, size, confidence=0.95, power=0.8)
    draws = rng.normal(effect, error * size**0.5, size=(4000, size))
    lows = draws.mean(1) - stats.t.ppf(0.975, size - 1) * stats.sem(draws, axis=1)
    assert (lows > 0).mean() == pytest.approx(0.8, abs=0.025)


@pytest.mark.parametrize(("n", "c", "k"), [(5, 2, 1), (5, 2, 3), (6, 0, 2), (4, 4, 4), (8, 5, 4), (4, 3, 2)])
def test_pass_at_k_counts_subsets(n, c, k):
    subsets = list(combinations([True] * c + [False] * (n - c), k))
    assert st.pass_at_k([n], [c], k)[0] == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_refuses_more_draws_than_samples():
    with pytest.raises(ValueError, match="pass@4 needs at least 4 samples"):
        st.pass_at_k([8, 2], [1, 1], 4)


def test_kappa_by_hand():
    # 20 both yes, 5 first only, 10 second only, 15 both no: (0.7 - 0.5) / (1 - 0.5)
    first = [True] * 25 + [False] * 25
    second = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    assert st.kappa(first, second) == pytest.approx(0.4)
    assert st.kappa([True, True], [True, True]) == 1.0
