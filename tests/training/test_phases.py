"""From phase to phase: the optimizer's state, prompts that are given up, a judge that dies in between."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from endpoint_server import Respond, raw, says, served
from parity_stage import score_parity
from safetensors.torch import load_file
from training_jobs import example, grpo_job, lines, scripted, whole_state

from qwenlong_core.jobs import GRPOJob
from qwenlong_core.records import Completion, Example, Score
from qwenlong_core.rewards.monitor import RewardAlarm
from qwenlong_core.settings.training import CurriculumSettings, DynamicSamplingSettings, GRPOSettings
from qwenlong_core.training import grpo
from qwenlong_core.training.checkpoints import newest_complete
from qwenlong_core.training.curriculum import Difficulty, choose_retrospective, is_hopeless, to_retire
from qwenlong_core.training.grpo import build_trainer, reward_scorer, train_phase
from qwenlong_core.training.rollout import Scorer
from qwenlong_core.training.trainer import LongContextGRPOTrainer

Make = Callable[..., LongContextGRPOTrainer]
PHASE = {"max_prompt_tokens": 256, "max_completion_tokens": 8, "cache_tokens": 2}


def run(job: GRPOJob, model: Path, data: Path, work: Path, scorer: Scorer) -> list[dict[str, Any]]:
    train_phase(job, {"model": model, "data": data}, work, scorer)
    return lines(work / "output" / "metrics.jsonl")


# -- the optimizer --------------------------------------------------------------------------------


def test_a_phase_without_what_it_should_carry_is_refused(policy: Path, data: Path, tmp_path: Path) -> None:
    job = grpo_job(index=2, optimizer_across_phases="carried")
    with pytest.raises(ValueError, match=r"optimizer is missing.*'carried': train the phase before.*'fresh'"):
        build_trainer(
            job, inputs={"model": policy, "data": data}, work=tmp_path, scorer=score_parity, processes=1, rank=0
        )


def test_the_optimizer_is_carried_or_fresh(policy: Path, data: Path, tmp_path: Path) -> None:
    """Two updates, then one: carried, the second phase counts three and starts from the first's moments, with its
    own learning rate."""
    base = {"batch_size": 2, "mini_batch_size": 2, "dynamic_sampling": {"max_rounds": 8}}
    carried = base | {"optimizer_across_phases": "carried"}
    one, two, fresh = tmp_path / "one", tmp_path / "two", tmp_path / "fresh"
    run(grpo_job(**carried, phase=PHASE | {"steps": 2}), policy, data, one, score_parity)
    checkpoint = newest_complete(one / "checkpoints")
    assert checkpoint is not None
    left = whole_state(one / "output" / "optimizer")
    ended_with = whole_state(checkpoint)
    assert left.keys() == {name for name in ended_with if name.startswith("optimizer/")}
    assert [name for name in left if not torch.equal(left[name], ended_with[name])] == []
    assert {float(v) for k, v in left.items() if k.endswith("/step")} == {2.0}

    seen: dict[str, torch.Tensor] = {}
    inputs = {"model": one / "output", "data": data}
    job = grpo_job(**carried, index=2, phase=PHASE | {"steps": 1})
    slower = grpo_job(**carried, index=2, phase=PHASE | {"steps": 1}, learning_rate=2e-4)
    trainer = build_trainer(slower, inputs=inputs, work=tmp_path / "look", scorer=score_parity, processes=1, rank=0)
    trainer.create_optimizer_and_scheduler(1)
    trainer.callback_handler.optimizer = trainer.optimizer
    trainer.callback_handler.on_train_begin(trainer.args, trainer.state, trainer.control)
    for name, parameter in trainer.model.named_parameters():
        for entry, value in trainer.optimizer.state[parameter].items():
            seen[f"optimizer/{name}/{entry}"] = torch.as_tensor(value)
    assert seen.keys() == left.keys()
    assert [name for name in seen if not torch.equal(seen[name], left[name])] == []
    assert {group["lr"] for group in trainer.optimizer.param_groups} == {2e-4}

    run(job, one / "output", data, two, score_parity)
    after = whole_state(two / "output" / "optimizer")
    assert {float(v) for k, v in after.items() if k.endswith("/step")} == {3.0}
    run(grpo_job(**base, index=2, phase=PHASE | {"steps": 1}), one / "output", data, fresh, score_parity)
    assert not (fresh / "output" / "optimizer").exists()
    weights = [load_file(work / "output" / "model.safetensors") for work in (two, fresh)]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


# -- the length penalty ------------------------------------------------------------------------------


def test_the_length_penalty_is_that_of_the_phase() -> None:
    """Limit 8, cache 2: 6 tokens are free, 7 cost a half, 8 cost 1. The next phase has 16 and 4."""

    def values(job: GRPOJob, lengths: Sequence[int]) -> list[float | None]:
        text = "Therefore, the answer is 3."
        done = [Completion(text=text, token_ids=(1,) * n, finish_reason="stop") for n in lengths]
        scores = asyncio.run(reward_scorer(job)([example(0)] * len(done), done))
        assert {score.accuracy for score in scores} == {1.0}
        return [score.value for score in scores]

    assert values(grpo_job(), (6, 7, 8)) == [1.0, 0.5, 0.0]
    wider = PHASE | {"max_completion_tokens": 16, "cache_tokens": 4, "steps": 1}
    assert values(grpo_job(index=2, phase=wider), (8, 12, 13, 16)) == [1.0, 1.0, 0.75, 0.0]


# -- prompts that are given up ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("visits", "mean", "after", "hopeless"),
    [(3, 0.0, 3, True), (2, 0.0, 3, False), (9, 0.01, 3, False), (9, 0.0, None, False)],
)
def test_hopeless_is_never_right_in_so_many_visits(visits: int, mean: float, after: int | None, hopeless: bool) -> None:
    assert is_hopeless(Difficulty(visits, mean), after) == hopeless
    assert not is_hopeless(None, after)


def test_rows_are_retired_first_come_first_and_a_batch_always_stays() -> None:
    rows = [example(i) for i in range(6)]
    known = {f"p1-{i}": Difficulty(2, 0.0) for i in (0, 2, 3, 5)}
    assert to_retire(rows, known, 2, set(), keep=2) == ([0, 2, 3, 5], 0)
    assert to_retire(rows, known, 2, set(), keep=4) == ([0, 2], 2)
    assert to_retire(rows, known, 2, {5}, keep=4) == ([0], 2), "what is retired stays so"
    assert to_retire(rows, known, None, set(), keep=2) == ([], 0)


def test_retired_rows_do_not_come_back_later() -> None:
    rows = [example(i) for i in range(4)]
    known = {"p1-0": Difficulty(3, 0.0), "p1-1": Difficulty(1, 0.0), "p1-2": Difficulty(3, 0.5)}
    assert [e.id for e in choose_retrospective(rows, known, 9, 4, 0, retire_after_visits=3)] == [
        "p1-1",
        "p1-2",
    ]


def test_a_phase_retires_counts_and_stops_at_a_batch(
    policy: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Eight rows, two a step, all wrong: after three steps six are retired, and the last two stay in use."""
    job = grpo_job(
        batch_size=2,
        mini_batch_size=2,
        dynamic_sampling={"max_rounds": 1},
        curriculum={"retire_after_visits": 1},
        phase=PHASE | {"steps": 5},
    )
    with caplog.at_level(logging.WARNING):
        rows = run(job, policy, data, tmp_path, scripted([[0] * 4] * 10))
    assert [row["prompts_retired"] for row in rows] == [2, 4, 6, 6, 6]
    assert "2 prompt(s) without a right completion in 1 visits stay in use: 6 of 8 are retired" in caplog.text
    visits = {key: row["visits"] for key, row in json.loads((tmp_path / "output/difficulty.json").read_text()).items()}
    assert sorted(visits.values()) == [1] * 6 + [2] * 2


# -- a judge that dies ------------------------------------------------------------------------------


def numbered(job: GRPOJob) -> Scorer:
    """The real rewards, on texts that only a judge can tell: the random policy writes none itself."""
    score = reward_scorer(job)

    async def scorer(examples: Sequence[Example], completions: Sequence[Completion]) -> list[Score]:
        asked = [replace(e, answer_type="span", answers=("Anna",)) for e in examples]
        texts = [replace(c, text=f"Therefore, the answer is Berta {sum(c.token_ids)}.") for c in completions]
        return await score(asked, texts)

    return scorer


@contextmanager
def judge(dies_after: int | None) -> Iterator[dict[str, Any]]:
    """A judge that finds even numbers equal; from ``dies_after`` requests on it has no more to say."""

    def choose(n: int, request: dict[str, Any]) -> Respond:
        if dies_after is not None and n >= dies_after:
            return raw(b"out of order", status="500 Internal Server Error")
        text = json.dumps(request["messages"])
        digit = next(c for c in reversed(text.split("Berta")[-1].split(".")[0]) if c.isdigit())
        return says("[[YES]]" if int(digit) % 2 == 0 else "[[NO]]")

    with served(choose) as server:
        yield {"base_url": server.url, "model": "m", "max_retries": 0}


def test_a_judge_that_dies_in_mid_run_stops_it_and_the_run_goes_on_later(
    policy: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def job(settings: dict[str, Any]) -> GRPOJob:
        rewards = {"judge": settings, "max_judge_only_share": 1.0}
        return grpo_job(rewards=rewards, dynamic_sampling={"max_rounds": 1}, phase=PHASE | {"steps": 3})

    async def healthy(judge: Any) -> None:
        """The check before a run has tests of its own."""

    monkeypatch.setattr(grpo, "require_judge", healthy)
    with judge(dies_after=None) as settings:
        whole = run(job(settings), policy, data, tmp_path / "a", numbered(job(settings)))
    assert [row["step"] for row in whole] == [1, 2, 3]
    assert whole[0]["judge_only_share"] == 1.0 and whole[0]["groups_kept"] > 0
    with (
        judge(dies_after=20) as settings,
        pytest.raises(RewardAlarm, match=r"unscored.*HTTP 500.*then resume"),
    ):
        run(job(settings), policy, data, tmp_path / "b", numbered(job(settings)))
    assert [row["step"] for row in lines(tmp_path / "b/output/metrics.jsonl")] == [1]
    with judge(dies_after=None) as settings:
        run(job(settings), policy, data, tmp_path / "b", numbered(job(settings)))
    ends = [load_file(tmp_path / name / "output" / "model.safetensors") for name in ("a", "b")]
    assert [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])] == []


# -- settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "values", "words"),
    [
        (DynamicSamplingSettings, {"oversampling": 0.5}, "greater than or equal to 1"),
        (DynamicSamplingSettings, {"oversampling": 17.0}, "less than or equal to 16"),
        (CurriculumSettings, {"retire_after_visits": 0}, "greater than or equal to 1"),
        (GRPOSettings, {"truncated": "drop"}, "'keep' or 'mask'"),
        (GRPOSettings, {"scale_rewards": "row"}, "'group', 'batch', 'task' or 'none'"),
        (GRPOSettings, {"task": "language"}, "'domain', 'answer_type' or 'source'"),
        (GRPOSettings, {"task": "source"}, "grpo.task='source' does nothing by itself: set grpo.balance_tasks=true"),
        (GRPOSettings, {"aepo": {"high": 0.1, "low": 0.2}}, "low=0.2 is above high=0.1: swap them"),
        (GRPOSettings, {"aepo": {"high": 0.2}}, "low"),
        (GRPOSettings, {"aepo": {"high": 200, "low": 0.1}}, "is not between 0 and 100"),
        (GRPOSettings, {"on_policy": True}, "mini_batch_size=32 makes 4: set it to grpo.batch_size=128"),
        (
            GRPOSettings,
            {"on_policy": True, "mini_batch_size": 128, "clip_high": 0.28},
            "ratios of 1, which grpo.clip_high=0.28 never clips: drop it, or set it to its default 0.2",
        ),
        (GRPOSettings, {"optimizer_across_phases": "kept"}, "'fresh' or 'carried'"),
        (
            GRPOSettings,
            {"optimizer_across_phases": "carried"},
            "does nothing with 1 phase: set it to 'fresh'",
        ),
    ],
)
def test_bad_settings_are_refused(block: Any, values: dict[str, Any], words: str) -> None:
    phases = {"phases": [PHASE | {"steps": 1}]} if block is GRPOSettings else {}
    with pytest.raises(ValueError, match=words):
        block.model_validate(values | phases)
