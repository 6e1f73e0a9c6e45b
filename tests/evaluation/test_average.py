"""The average over the paper's seven: each counts once, none is left out in silence, and no verdict is no zero."""

import numpy as np
import pytest
from evaluation_tables import BOOTSTRAP, make_sample

from qwenlong_core.evaluation.average import AVERAGE
from qwenlong_core.evaluation.published import BENCHMARKS, SCORES
from qwenlong_core.evaluation.scores import compute_scores
from qwenlong_core.evaluation.statistics import clustered_accuracy, mean_of_means
from qwenlong_core.report.tables import average_cell, score_cell

PAPERS_AVERAGES = {"R1-Distill-Qwen-14B": 64.2, "14B + SFT + DAPO": 68.3, "QwenLong-L1-32B (DAPO)": 70.7}


def scores(**values):
    """Scores of a table: the values of each benchmark's items, one sample each."""
    return compute_scores(
        [
            make_sample(f"{source}-{number}", value, source=source)
            for source, items in values.items()
            for number, value in enumerate(items)
        ],
        BOOTSTRAP,
    )


def seven(**changed):
    return dict.fromkeys(BENCHMARKS, (1, 0)) | changed


def test_each_benchmark_counts_once_whatever_its_size():
    found = scores(**seven(frames=(1,) * 30, docmath=(0, 0, 0)), generated=(0,) * 50)
    assert found.average.accuracy.mean == pytest.approx((1.0 + 0.0 + 5 * 0.5) / 7)
    assert found.average.accuracy.items == 30 + 3 + 10, "the generated questions are none of the seven"
    assert found.overall.accuracy.mean == pytest.approx(35 / 93)
    assert found.average.words == "" and str(average_cell(found)).startswith("0.50 [")


@pytest.mark.parametrize(("model", "printed"), PAPERS_AVERAGES.items())
def test_it_is_the_average_that_the_paper_prints(model, printed):
    assert np.mean(SCORES[model]) == pytest.approx(printed, abs=0.05)


def test_a_missing_benchmark_is_named_and_there_is_no_average_of_six():
    values = seven()
    del values["qasper"]
    found = scores(**values)
    assert found.average.accuracy is None
    assert average_cell(found) == f"no {AVERAGE} (not evaluated: qasper)"
    assert scores(generated=(1, 0)).average is None


def test_unscored_answers_stay_in_the_denominator_and_are_told():
    found = scores(**seven(musique=(1, None, None, 0)))
    assert found.average.accuracy.mean == pytest.approx((6 * 0.5 + 0.25) / 7)
    assert found.average.highest == pytest.approx((6 * 0.5 + 0.75) / 7)
    assert found.average.unscored == {"musique": 2}
    assert "count 0 (musique 2); if all were right it would be 0.54" in found.average.words


def test_a_benchmark_without_any_verdict_is_unscored_and_never_0():
    found = scores(**seven(musique=(None, None)))
    assert found.average.accuracy is None and found.average.undecided == ("musique",)
    assert average_cell(found) == f"no {AVERAGE} (no answer has a verdict: musique)"
    assert score_cell(found.sources["musique"]) == "unscored"
    assert str(score_cell(found.sources["qasper"])).startswith("0.50 [")


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(3)
    truth, hits, runs = np.linspace(0.2, 0.8, 7), 0, 400
    documents = [str(number) for number in range(60)]
    for _ in range(runs):
        parts = [
            clustered_accuracy(rng.random(60) < p, documents, resamples=200, confidence=0.95, seed=1) for p in truth
        ]
        average = mean_of_means(parts)
        hits += average.low <= truth.mean() <= average.high
        if _ == 0:
            errors = [part.standard_error for part in parts]
            assert average.standard_error == pytest.approx(np.sqrt(np.square(errors).sum()) / 7)
    assert 0.92 <= hits / runs <= 0.985
