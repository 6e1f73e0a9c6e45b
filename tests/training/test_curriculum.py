"""Weights, shares and difficulties worked out by hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_jobs import example, grpo_job

from qwenlong_core.store.files import write_json
from qwenlong_core.training.curriculum import (
    UNSEEN,
    Difficulty,
    choose_retrospective,
    read_difficulties,
    retrospective_limit,
    retrospective_weight,
    to_json,
)
from qwenlong_core.training.grpo import phase_examples
from qwenlong_core.training.output import DIFFICULTY


@pytest.mark.parametrize(
    ("mean_accuracy", "group_size", "weight"),
    [
        (0.0, 8, 8.0),
        (1 / 16, 8, 8.0),
        (0.125, 8, 8.0),
        (0.25, 8, 4.0),
        (0.5, 8, 2.0),
        (1.0, 8, 1.0),
        (0.0, 4, 4.0),
    ],
)
def test_weights(mean_accuracy: float, group_size: int, weight: float) -> None:
    assert retrospective_weight(mean_accuracy, group_size) == pytest.approx(weight)


@pytest.mark.parametrize(
    ("own", "share", "limit"), [(9, 0.1, 1), (75, 0.25, 25), (10, 0.25, 3), (10, 0.0, 0), (4, 0.5, 4)]
)
def test_limits(own: int, share: float, limit: int) -> None:
    assert retrospective_limit(own, share) == limit


@given(own=st.integers(1, 2000), share=st.floats(0, 0.99))
def test_the_share_is_never_passed_and_never_a_row_short(own: int, share: float) -> None:
    limit = retrospective_limit(own, share)
    assert limit / (own + limit) <= share + 1e-9
    assert (limit + 1) / (own + limit + 1) > share - 1e-9


def test_difficulty_is_the_mean_over_visits() -> None:
    seen = UNSEEN.after([1, 0, 0, 0]).after([1, 1, 1, 0]).after([0, 0, 0, 0])
    assert seen.visits == 3
    assert seen.mean_accuracy == pytest.approx((0.25 + 0.75 + 0.0) / 3)


def test_hard_rows_come_back_more_often() -> None:
    """G = 4: weights 4, 4, 1, 1 give the hard pair 80% of single draws; 4,000 seeds, 3 sigma = 1.9%."""
    rows = [example(i) for i in range(4)]
    known = {
        "p1-0": Difficulty(1, 0.0),
        "p1-1": Difficulty(2, 0.0),
        "p1-2": Difficulty(1, 1.0),
        "p1-3": Difficulty(1, 1.0),
    }
    drawn = Counter(choose_retrospective(rows, known, 1, 4, seed)[0].id for seed in range(4000))
    assert (drawn["p1-0"] + drawn["p1-1"]) / 4000 == pytest.approx(0.8, abs=0.019)


def test_rows_never_seen_are_not_chosen_and_none_twice() -> None:
    rows = [example(i) for i in range(6)]
    known = {f"p1-{i}": Difficulty(1, 0.5) for i in range(3)}
    chosen = choose_retrospective(rows, known, 10, 4, seed=0)
    assert [row.id for row in chosen] == ["p1-0", "p1-1", "p1-2"]


def test_a_phase_takes_its_bucket_and_hard_earlier_rows(data: Path, tmp_path: Path) -> None:
    write_json(tmp_path / DIFFICULTY, to_json({f"p1-{i}": Difficulty(1, 0.0) for i in range(8)}))
    difficulties = read_difficulties(tmp_path)
    ids = [e.id for e in phase_examples(grpo_job(index=2), data, difficulties)]
    assert ids[:8] == [f"p2-{i}" for i in range(8)]
    assert len(ids[8:]) == 2  # a quarter of all: 2 of 10
    assert all(name.startswith("p1-") for name in ids[8:])
    off = grpo_job(index=2, curriculum={"retrospective_share": 0.0})
    assert len(phase_examples(off, data, difficulties)) == 8
    assert len(phase_examples(grpo_job(index=2), data, read_difficulties(data))) == 8, "no difficulty, none come back"


def test_an_empty_phase_and_too_few_rows_are_refused(data: Path) -> None:
    with pytest.raises(ValueError, match="no row of phase 3"):
        phase_examples(grpo_job(index=3), data, {})
    with pytest.raises(ValueError, match=r"8 rows, fewer than grpo.batch_size=16"):
        phase_examples(grpo_job(batch_size=16), data, {})
