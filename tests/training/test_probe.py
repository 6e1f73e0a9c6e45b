"""The probe: right figures, the curriculum's own file, the same end after a stop, refusals."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from parity_stage import score_parity
from training_jobs import LAUNCH, grpo_job, lines

from qwenlong_core.jobs import ProbeJob
from qwenlong_core.records import Completion, Example, Score
from qwenlong_core.training import curriculum, probe
from qwenlong_core.training.grpo import build_trainer, phase_examples
from qwenlong_core.training.probe import choose_rows, measure
from qwenlong_core.training.probe_summary import informative_chance, step_cost, summary, table


def probe_job(**changes: Any) -> ProbeJob:
    phase = {"max_completion_tokens": 8, "cache_tokens": 2, "steps": 1}
    job = {
        "samples": 4,
        "rows_at_once": 3,
        "phases": [phase | {"max_prompt_tokens": n} for n in (256, 512)],
        "group_size": 4,
        "batch_size": 4,
        "max_rounds": 3,
        "temperature": 1.0,
        "top_p": 1.0,
        "engine": "transformers",
        "rewards": {},
        "model": {"name": "tiny"},
        "launch": LAUNCH,
        "seed": 5,
    }
    return ProbeJob.model_validate(job | changes)


@pytest.mark.parametrize(("samples", "group_size"), [(4, 4), (6, 4), (5, 2)])
def test_the_informative_chance_is_counted_over_all_groups(samples: int, group_size: int) -> None:
    for right in range(samples + 1):
        answers = [1] * right + [0] * (samples - right)
        groups = [len(set(group)) > 1 for group in itertools.combinations(answers, group_size)]
        assert informative_chance(right, samples, group_size) == pytest.approx(sum(groups) / len(groups))


def test_with_few_samples_the_pass_rate_stands_for_the_true_one() -> None:
    assert informative_chance(1, 2, 8) == pytest.approx(1 - 2 * 0.5**8)
    assert informative_chance(0, 2, 8) == 0


def line(phase: int, domain: str, accuracies: Sequence[float], tokens: int, seconds: float = 1.0) -> dict[str, Any]:
    return {
        "step": phase,
        "id": f"{phase}{domain}{accuracies}",
        "domain": domain,
        "prompt_tokens": 100 * phase,
        "accuracies": list(accuracies),
        "tokens": [tokens] * 4,
        "truncated": int(tokens == 8),
        "seconds": seconds,
    }


def test_a_summary_by_hand() -> None:
    """Phase 1: all right, half right, all wrong; phase 2: all wrong only."""
    found = summary(
        [
            line(1, "math", [1] * 4, 4),
            line(1, "math", [1, 1, 0, 0], 8),
            line(1, "logical", [0] * 4, 6),
            line(2, "math", [0] * 4, 2),
        ],
        probe_job(),
    )
    one, two = found["phases"]["1"], found["phases"]["2"]
    assert one["pass_rate"] == 0.5
    assert one["all_right_share"] == one["all_wrong_share"] == one["informative_share"] == pytest.approx(1 / 3)
    assert one["truncated_share"] == pytest.approx(1 / 12)
    assert found["domains"]["1/math"]["pass_rate"] == 0.75
    # 4 / (1/3) = 12 groups fill the batch, which three rounds of 4 just allow: 12 * (100 + 4 * 6) tokens.
    expected = {"groups_drawn": 12.0, "groups_kept": 4.0, "tokens": 1488.0, "sampling_seconds": 12.0}
    assert one["step"] == pytest.approx(expected)
    assert two["step"] == pytest.approx(
        {"groups_drawn": 12, "groups_kept": 0, "tokens": 12 * 208, "sampling_seconds": 12}
    )
    assert "a step of phase 1: 12.0 groups drawn for 4.0 informative ones" in table(found)


def test_rounds_bound_what_is_drawn() -> None:
    found = {
        "informative_share": 0.1,
        "prompt_tokens": 10.0,
        "completion_tokens": 1.0,
        "seconds_per_completion": 1.0,
    }
    assert step_cost(found, probe_job(max_rounds=2))["groups_kept"] == pytest.approx(0.8)


def test_rows_are_chosen_whatever_their_order(data: Path) -> None:
    from qwenlong_core.data.rows import read_phase

    rows = read_phase(data / "train.parquet", 1)
    chosen = choose_rows(rows, 3, seed=1)
    assert len(chosen) == 3
    assert chosen == choose_rows(rows[::-1], 3, seed=1)
    assert chosen != choose_rows(rows, 3, seed=2)


@pytest.fixture
def parity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_scorer", lambda job: score_parity)


@pytest.mark.usefixtures("parity")
def test_a_probe_leaves_what_the_curriculum_reads(policy: Path, data: Path, tmp_path: Path) -> None:
    found = measure(probe_job(), policy, data, tmp_path)
    log = lines(tmp_path / "probe.jsonl")
    difficulties = curriculum.read_difficulties(tmp_path)
    assert len(log) == len(difficulties) == 16
    for row in log:
        assert difficulties[row["id"]] == curriculum.Difficulty(1, sum(row["accuracies"]) / 4)
    assert {row["step"] for row in log} == {1, 2}
    rates = [sum(row["accuracies"]) / 4 for row in log if row["step"] == 1]
    assert found["phases"]["1"]["pass_rate"] == pytest.approx(sum(rates) / 8)
    assert found["phases"]["1"]["informative_share"] == pytest.approx(sum(0 < rate < 1 for rate in rates) / 8)
    # Phase 2 can bring back rows of phase 1 that no training has visited yet.
    back = phase_examples(grpo_job(index=2), data, difficulties)
    assert len([row for row in back if row.id.startswith("p1-")]) == 2


@pytest.mark.usefixtures("parity")
def test_a_stopped_probe_goes_on_and_ends_the_same(
    policy: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(probe_job(), policy, data, tmp_path / "a")
    calls = 0

    async def dies(examples: Sequence[Example], completions: Sequence[Completion]) -> list[Score]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise RuntimeError("stopped")
        return await score_parity(examples, completions)

    with monkeypatch.context() as patch:
        patch.setattr(probe, "_scorer", lambda job: dies)
        with pytest.raises(RuntimeError, match="stopped"):
            measure(probe_job(), policy, data, tmp_path / "b")
    assert len(lines(tmp_path / "b" / "probe.jsonl")) == 6
    with (tmp_path / "b" / "probe.jsonl").open("a") as file:
        file.write('{"step": 1, "half')
    measure(probe_job(), policy, data, tmp_path / "b")
    assert (tmp_path / "a" / "difficulty.json").read_bytes() == (tmp_path / "b" / "difficulty.json").read_bytes()
    with pytest.raises(ValueError, match="another model, other rows or other settings"):
        measure(probe_job(samples=2), policy, data, tmp_path / "b")


def test_an_unscored_row_is_left_out_and_asked_again(
    policy: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(examples: Sequence[Example], completions: Sequence[Completion]) -> list[Score]:
        return [Score(value=None, status="unscored") if e.id == "p1-0" else Score(value=1, rule=1) for e in examples]

    async def mute(examples: Sequence[Example], completions: Sequence[Completion]) -> list[Score]:
        return [Score(value=None, status="unscored") for _ in examples]

    with monkeypatch.context() as patch:
        patch.setattr(probe, "_scorer", lambda job: silent)
        measure(probe_job(), policy, data, tmp_path)
        assert "p1-0" not in curriculum.read_difficulties(tmp_path)
        patch.setattr(probe, "_scorer", lambda job: mute)
        with pytest.raises(RuntimeError, match="no verdict on 16 of 16 rows"):
            measure(probe_job(), policy, data, tmp_path / "none")
    monkeypatch.setattr(probe, "_scorer", lambda job: score_parity)
    measure(probe_job(), policy, data, tmp_path)
    assert "p1-0" in curriculum.read_difficulties(tmp_path)


def test_the_real_rewards_score_a_random_model_wrong(policy: Path, data: Path, tmp_path: Path) -> None:
    found = measure(probe_job(rows=2), policy, data, tmp_path)
    assert [phase["all_wrong_share"] for phase in found["phases"].values()] == [1.0, 1.0]
    assert json.loads((tmp_path / "probe.json").read_text()) == found


@pytest.mark.usefixtures("parity")
def test_the_first_phase_starts_with_what_the_probe_found(policy: Path, data: Path, tmp_path: Path) -> None:
    measure(probe_job(rows=3), policy, data, tmp_path / "probe")
    inputs = {"model": policy, "data": data, "probe": tmp_path / "probe"}
    trainer = build_trainer(grpo_job(), inputs=inputs, work=tmp_path / "work", scorer=score_parity, processes=1, rank=0)
    assert trainer.batches.difficulties == curriculum.read_difficulties(tmp_path / "probe")
    assert len(trainer.batches.difficulties) == 6
