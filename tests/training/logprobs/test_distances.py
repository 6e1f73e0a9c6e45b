"""Engine against trainer, policy against its start, and the entropy alarm."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from parity_stage import score_parity
from safetensors.torch import load_file
from training_jobs import grpo_job, lines

from qwenlong_core.generation.engine import Sampling
from qwenlong_core.models import load_policy
from qwenlong_core.settings.training import EntropyAlarmSettings, GRPOSettings, Phase
from qwenlong_core.training import grpo
from qwenlong_core.training.entropy import EntropyAlarm, EntropyWatch
from qwenlong_core.training.grpo import train_phase
from qwenlong_core.training.logprobs.distances import beyond_nucleus, kl_estimate


def trained(policy: Path, data: Path, work: Path, **changes: Any) -> list[dict[str, Any]]:
    train_phase(grpo_job(**changes), {"model": policy, "data": data}, work, score_parity)
    return lines(work / "output" / "metrics.jsonl")


def test_what_a_nucleus_explains_is_no_mismatch() -> None:
    """At top_p 0.5 a token's log-prob rises by 0 to log 2; -0.1 and 1.0 are outside by 0.1 and 1 - log 2."""
    difference = torch.tensor([0.0, 0.3, math.log(2), -0.1, 1.0])
    expected = torch.tensor([0.0, 0.0, 0.0, 0.1, 1 - math.log(2)])
    torch.testing.assert_close(beyond_nucleus(difference, 0.5), expected)
    torch.testing.assert_close(beyond_nucleus(difference, 1.0), difference.abs())


def test_the_kl_estimate_is_unbiased_and_never_negative() -> None:
    policy, start = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.3, 0.3, 0.4])
    exact = float((policy * (policy / start).log()).sum())
    each = kl_estimate(start.log(), policy.log())
    assert float((policy * each).sum()) == pytest.approx(exact, abs=1e-6)
    assert bool((each >= 0).all())


@pytest.mark.parametrize("updates", [1, 2])
def test_the_transformers_engine_agrees_with_the_trainer(
    updates: int, policy: Path, data: Path, tmp_path: Path
) -> None:
    """Whether old log-probs were computed (2 updates a batch) or not (1)."""
    for row in trained(policy, data, tmp_path, mini_batch_size=4 // updates, temperature=0.8):
        assert 0 < row["engine_mismatch"] <= row["engine_mismatch_max"] < 1e-4
        assert row["engine_logprob_difference"] == pytest.approx(row["engine_mismatch"])


def test_a_nucleus_shows_in_the_difference_and_not_in_the_mismatch(policy: Path, data: Path, tmp_path: Path) -> None:
    for row in trained(policy, data, tmp_path, top_p=0.5):
        assert 0.3 < row["engine_logprob_difference"] < math.log(2)
        assert row["engine_mismatch_max"] < 1e-4


def test_an_engine_with_other_weights_shows(
    policy: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test of the tests above: an engine that samples at another temperature than it is told."""

    class Warm(grpo.TransformersEngine):
        def generate(self, prompts: Sequence[Sequence[int]], samples: int, sampling: Sampling) -> Any:
            return super().generate(prompts, samples, Sampling(2.0, 1.0, sampling.max_tokens, sampling.seed))

    monkeypatch.setattr(grpo, "TransformersEngine", Warm)
    assert all(row["engine_mismatch"] > 0.01 for row in trained(policy, data, tmp_path, temperature=0.5))


def reference_kl(policy: Path, trainer_model: Any, batch: dict[str, Any], temperature: float) -> float:
    """The estimate over the batch's tokens through plain forwards of both models."""
    start, total, tokens = load_policy(policy, grpo_job().model), 0.0, 0
    for i in range(len(batch["advantages"])):
        if not batch["tool_mask"][i, 0]:
            continue
        prompt = batch["prompt_ids"][i][batch["prompt_mask"][i].bool()]
        completion = batch["completion_ids"][i][batch["completion_mask"][i].bool()]
        logps = []
        for model in (start, trainer_model):
            with torch.no_grad():
                logits = model(input_ids=torch.cat([prompt, completion])[None]).logits[0, len(prompt) - 1 : -1]
            logps.append((logits / temperature).log_softmax(-1).gather(-1, completion[:, None])[:, 0])
        gap = logps[0] - logps[1]
        total += float((gap.exp() - gap - 1).sum())
        tokens += len(completion)
    return total / tokens


@pytest.mark.parametrize("updates", [1, 2])
def test_the_kl_to_the_start_is_that_of_plain_forwards(updates: int, policy: Path, data: Path, tmp_path: Path) -> None:
    job = grpo_job(kl_to_start_every=1, temperature=0.8, mini_batch_size=4 // updates)
    trainer = grpo.build_trainer(
        job, inputs={"model": policy, "data": data}, work=tmp_path, scorer=score_parity, processes=1, rank=0
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in trainer.model.parameters():
            weight += 0.01 * torch.randn(weight.shape, generator=generator)
    trainer.model.train()
    batch = trainer.next_batch()
    trainer._update_began = 0.0
    trainer.log({"loss": 0.0})
    measured = trainer.state.log_history[-1]["kl"]
    assert measured > 1e-3
    assert measured == pytest.approx(reference_kl(policy, trainer.model, batch, 0.8), rel=1e-3)


def test_measuring_the_kl_changes_nothing_but_the_metric(
    policy: Path, data: Path, plain_run: Path, tmp_path: Path
) -> None:
    plain = lines(plain_run / "output" / "metrics.jsonl")
    measured = trained(policy, data, tmp_path, kl_to_start_every=2)
    assert [row.get("kl") is not None for row in measured] == [False, True, False]
    assert 0 < measured[1]["kl"] < 1
    times = {"seconds", "tokens_per_second", "memory_mb", "time", "update_seconds", "tflops_per_second", "kl"}
    assert [{k: v for k, v in row.items() if k not in times} for row in measured] == [
        {k: v for k, v in row.items() if k not in times} for row in plain
    ]
    ours, theirs = (load_file(work / "output/model.safetensors") for work in (plain_run, tmp_path))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_kl_at_every_step_needs_no_second_measurement() -> None:
    phase = Phase(max_prompt_tokens=256, steps=1)
    with pytest.raises(ValueError, match="reported at every step"):
        GRPOSettings(phases=(phase,), kl_coefficient=0.1, kl_to_start_every=2)


def test_the_entropy_watch_by_hand() -> None:
    """Starts at 2.0, so below 0.2 is low; the third low step in a row is the alarm, a gap starts anew."""
    settings = EntropyAlarmSettings(floor=0.01, share=0.1, steps=3)
    watch = EntropyWatch()
    said = []
    for entropy in (2.0, 0.1, 0.1, 0.5, 0.1, None, 0.1, 0.05, 0.1, 0.1, 0.1):
        said.append(watch.see(entropy, settings) is not None)
        watch = EntropyWatch(**asdict(watch))  # as a resumed run reads it back
    assert said == [False] * 7 + [True, False, False, True]
    assert watch.low_steps == 6


def test_a_floor_catches_a_policy_that_started_collapsed() -> None:
    watch = EntropyWatch()
    assert watch.see(0.001, EntropyAlarmSettings(floor=0.01, steps=1)) is not None


def test_a_collapse_is_warned_of_and_counted(
    policy: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A floor above a random model's entropy (log of the vocabulary): every step is low."""
    with caplog.at_level(logging.WARNING):
        rows = trained(policy, data, tmp_path, entropy_alarm={"floor": 20.0, "steps": 2})
    assert [row["entropy_low_steps"] for row in rows] == [1, 2, 3]
    assert caplog.text.count("ENTROPY COLLAPSE") == 1


def test_a_collapse_stops_the_run_when_it_should(policy: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(EntropyAlarm, match=r"grpo-1: ENTROPY COLLAPSE.*entropy_alarm.stop=false"):
        trained(policy, data, tmp_path, entropy_alarm={"floor": 20.0, "steps": 2, "stop": True})
    assert [row["step"] for row in lines(tmp_path / "output" / "metrics.jsonl")] == [1, 2]


def test_the_metrics_of_a_step_are_all_there(policy: Path, data: Path, tmp_path: Path) -> None:
    row = trained(policy, data, tmp_path)[-1]
    named = (
        "reward", "accuracy", "length_mean", "length_p50", "length_p90", "length_p99", "truncated_share", "entropy",
        "clip_ratio", "clip_low_share", "clip_high_share", "grad_norm", "groups_drawn", "groups_kept",
        "groups_all_right", "groups_all_wrong", "groups_unscored", "groups_surplus", "unscored_share",
        "judge_only_share", "engine_mismatch", "tokens_per_second", "memory_mb",
        "update_seconds", "tflops_per_second", "gigabytes_sent",
    )  # fmt: skip
    assert [name for name in named if row.get(name) is None] == []
    assert any(name.startswith("accuracy_") for name in row)
