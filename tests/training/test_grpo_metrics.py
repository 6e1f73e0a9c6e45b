"""The lines of ``metrics.jsonl``: removed exactly on resume, readable, and right about what was drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from training_jobs import example, lines

from qwenlong_core.records import Completion, Group, Score
from qwenlong_core.training.dynamic_sampling import RolloutBatch
from qwenlong_core.training.grpo_metrics import batch_metrics, samples, sentence, shortfall
from qwenlong_core.training.metrics import JsonLines, duration, finite


def test_lines_are_cut_back_to_a_step(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "deep" / "m.jsonl")
    for step in (1, 1, 2, 3):
        log.append({"step": step})
    with log.path.open("a") as file:
        file.write('{"step": 3, "half')
    log.cut_back(2)
    assert [row["step"] for row in lines(log.path)] == [1, 1, 2]
    log.append({"step": 3})
    assert [row["step"] for row in lines(log.path)] == [1, 1, 2, 3]


def test_cutting_back_a_file_that_is_not_there(tmp_path: Path) -> None:
    JsonLines(tmp_path / "m.jsonl").cut_back(0)
    assert not (tmp_path / "m.jsonl").exists()


@pytest.mark.parametrize(("seconds", "text"), [(41.2, "41 s"), (82, "1m22s"), (60, "1m00s"), (11_100, "3h05m")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_nan_becomes_null() -> None:
    assert [finite(x) for x in (float("nan"), float("inf"), 1.5, 2, "a", None)] == [
        None,
        None,
        1.5,
        2,
        "a",
        None,
    ]


def batch() -> RolloutBatch:
    """One kept group (two lengths, one completion penalised and truncated) and one dropped because all are wrong."""

    def completion(length: int, cut: bool = False) -> Completion:
        return Completion(text=f"{length} tokens", token_ids=(1,) * length, finish_reason="length" if cut else "stop")

    kept = Group(
        example=example(0),  # math
        completions=(completion(4), completion(8, cut=True)),
        scores=(Score(value=1.0, rule=1.0), Score(value=-0.5, rule=0.0, length_penalty=-0.5)),
    )
    wrong = Group(
        example=example(1),  # logical
        completions=(completion(2), completion(6)),
        scores=(Score(value=0.0, rule=0.0), Score(value=0.0, status="no_answer")),
    )
    return RolloutBatch(kept=[kept], dropped=[(wrong, "all_wrong")], rounds=2)


def test_metrics_by_hand() -> None:
    row = batch_metrics(batch(), prompt_tokens=100)
    expected = {
        "reward": 0.125, "reward_kept": 0.25, "accuracy": 0.25, "accuracy_math": 0.5, "accuracy_logical": 0.0,
        "groups_drawn": 2, "groups_kept": 1, "groups_all_wrong": 1, "groups_all_right": 0, "rounds": 2,
        "unscored_share": 0.0, "no_answer_share": 0.25, "penalties": 1, "penalty_mean": -0.125, "bonus_mean": 0.0,
        "length_mean": 5.0, "length_p50": 6, "length_p90": 8, "length_p99": 8, "truncated_share": 0.25, "tokens": 120,
        "length_mean_kept": 6.0, "truncated_share_kept": 0.5, "tokens_kept": 12,
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert "kept 1/2 groups in 2 round(s)" in sentence(row)
    json.dumps(row)


def test_a_shortfall_is_said_and_a_full_batch_is_silent() -> None:
    assert shortfall(batch(), 1) is None
    assert shortfall(batch(), 3) == "1 of 3 informative groups after 2 round(s) (1 all wrong); training on 1"
    nothing = RolloutBatch(dropped=batch().dropped, rounds=1)
    assert "the weights do not change" in str(shortfall(nothing, 3))


def test_samples_are_the_best_and_the_worst() -> None:
    rows = list(samples(batch(), step=7))
    assert [(r["step"], r["rank"], r["kept"], r["completion"], r["score"]["value"]) for r in rows] == [
        (7, "best", True, "4 tokens", 1.0),
        (7, "worst", True, "8 tokens", -0.5),
    ]


def test_with_nothing_kept_a_dropped_group_is_shown() -> None:
    rows = list(samples(RolloutBatch(dropped=batch().dropped, rounds=1), step=1))
    assert [(r["id"], r["kept"]) for r in rows] == [("p1-1", False)] * 2
