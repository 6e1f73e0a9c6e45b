"""The gate's error rate and power are those stated in docs/evaluation.md."""

import importlib.util
import re
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

ROOT = Path(__file__).parents[2]
STATED_COMPARISONS = 2_000


@pytest.fixture(scope="module")
def rates():
    spec = importlib.util.spec_from_file_location("promotion_rates", ROOT / "benchmarks" / "promotion_rates.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["promotion_rates"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["promotion_rates"]


@pytest.fixture(scope="module")
def stated():
    """``(documents, questions, gain) -> (gain proven, promoted)`` of the documentation's table."""
    pattern = r"^\| (\d+) x (\d+) \| ([+-]\d\.\d\d) \| (\d+\.\d)% \| (\d+\.\d)% \|$"
    found = re.findall(pattern, (ROOT / "docs" / "evaluation.md").read_text(), re.MULTILINE)
    return {
        (int(d), int(q), float(g)): (float(proven) / 100, float(promoted) / 100) for d, q, g, proven, promoted in found
    }


@pytest.fixture(scope="module")
def stated_seven():
    """``(items of each, truth) -> rates in the order of the benchmark's ``EVENTS`` of the second table."""
    pattern = r"^\| (\d+) \| ([^|]+) " + r"\| (\d+\.\d)% " * 5 + r"\|$"
    found = re.findall(pattern, (ROOT / "docs" / "evaluation.md").read_text(), re.MULTILINE)
    return {(int(items), truth): tuple(float(rate) / 100 for rate in rates) for items, truth, *rates in found}


def agree(count, trials, stated_rate):
    """Whether a rate measured now is consistent with the stated one, which was measured too."""
    hits = round(stated_rate * STATED_COMPARISONS)
    table = [[count, trials - count], [hits, STATED_COMPARISONS - hits]]
    return stats.fisher_exact(table).pvalue > 0.001


def test_every_row_of_the_benchmark_is_stated_and_no_null_row_exceeds_its_level(rates, stated):
    assert set(stated) == {(d, q, gain) for d, q in rates.SIZES for gain in rates.GAINS}
    for (_, _, gain), (proven, promoted) in stated.items():
        assert promoted <= proven
        if gain == 0:
            hits = round(proven * STATED_COMPARISONS)
            assert stats.binomtest(hits, STATED_COMPARISONS, 0.025, alternative="greater").pvalue > 0.001


def test_the_simulation_is_calibrated(rates):
    rng = np.random.default_rng(3)
    new, old = zip(*(rates.draw_answers(rates.first(200, 2, 0.1), rng) for _ in range(100)))
    assert np.mean(new) == pytest.approx(0.6, abs=0.01)
    assert np.mean(old) == pytest.approx(0.5, abs=0.01)


def events(rates, decisions):
    """How often each event of the second table happened."""
    return [sum(map(event, decisions)) for event in rates.EVENTS.values()]


def test_seven_benchmarks_are_stated_whole_and_chance_refuses_no_more_than_its_level(rates, stated_seven):
    assert set(stated_seven) == set(product(rates.PER_BENCHMARK, rates.SEVEN))
    for (items, truth), (proven, lost, fell, possible, promoted) in stated_seven.items():
        assert promoted <= proven and lost <= fell <= possible
        if truth == "none" and items >= 50:  # with 25 items the t-test itself is slightly off
            hits = round(lost * STATED_COMPARISONS)
            assert (
                stats.binomtest(hits, STATED_COMPARISONS, 1 - rates.GATE.loss_confidence, alternative="greater").pvalue
                > 0.001
            )


def test_a_few_comparisons_of_seven_benchmarks_agree_with_the_stated_rates(rates, stated_seven):
    truth = "+0.10 on six, -0.15 on one"
    found = events(rates, rates.compare(rates.second(50, truth), 100, seed=77, resamples=500))
    assert all(agree(count, 100, rate) for count, rate in zip(found, stated_seven[50, truth], strict=True))


def test_a_few_comparisons_agree_with_the_stated_rate(rates, stated):
    decisions = rates.compare(rates.first(50, 1, 0.1), 150, seed=77, resamples=500)
    assert agree(sum(map(rates.gain_proven, decisions)), 150, stated[50, 1, 0.1][0])


@pytest.mark.slow
@pytest.mark.parametrize(("documents", "questions", "gain"), [(16, 1, 0.0), (50, 1, 0.0), (40, 5, 0.0), (40, 5, 0.1)])
def test_two_thousand_fresh_comparisons_agree_with_the_stated_rates(rates, stated, documents, questions, gain):
    decisions = rates.compare(rates.first(documents, questions, gain), 2_000, seed=99)
    proven, promoted = sum(map(rates.gain_proven, decisions)), sum(decision.promote for decision in decisions)
    assert agree(proven, 2_000, stated[documents, questions, gain][0])
    assert agree(promoted, 2_000, stated[documents, questions, gain][1])
    if gain == 0:
        assert stats.binomtest(proven, 2_000, 0.025, alternative="greater").pvalue > 0.001


@pytest.mark.slow
@pytest.mark.parametrize("truth", ["none", "+0.05 on all", "+0.10 on six, -0.15 on one"])
def test_two_thousand_fresh_comparisons_of_seven_benchmarks_agree_with_the_stated_rates(rates, stated_seven, truth):
    found = events(rates, rates.compare(rates.second(50, truth), 2_000, seed=99))
    assert all(agree(count, 2_000, rate) for count, rate in zip(found, stated_seven[50, truth], strict=True))
