"""AEPO: when completions with a negative advantage are masked, and what masking leaves of loss and gradient."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_loss import INFORMATIVE, WRONG, assert_gradients, move, token_logprobs
from torch import Tensor
from training_jobs import scripted

from qwenlong_core.settings.training import AEPOSettings
from qwenlong_core.training.aepo import NegativeMask
from qwenlong_core.training.trainer import LongContextGRPOTrainer

Make = Callable[..., LongContextGRPOTrainer]
ALWAYS, NEVER = {"high": 1e-6, "low": 0.0}, {"high": 20.0, "low": 0.0}
"""A random model's entropy is near the log of its vocabulary, 6.9."""


def test_the_mask_by_hand() -> None:
    """On from above 0.3 until below 0.1; between them it stays as it was, and so it does without any tokens."""
    band = AEPOSettings(high=0.3, low=0.1)
    mask, said = NegativeMask(), []
    for entropy in (0.2, 0.3, 0.31, 0.2, None, 0.1, 0.09, 0.2, 0.4, None, 0.05):
        said.append(mask.see(entropy, band))
        mask = NegativeMask(**json.loads(json.dumps(asdict(mask))))  # as a resumed run reads it back
    assert said == [False, False, True, True, True, True, False, False, True, True, False]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(entropies=st.lists(st.floats(0, 2), max_size=30), low=st.floats(0, 1), gap=st.floats(0.01, 1))
def test_the_last_entropy_outside_the_band_decides(entropies: list[float], low: float, gap: float) -> None:
    band, mask = AEPOSettings(high=low + gap, low=low), NegativeMask()
    for number, entropy in enumerate(entropies):
        outside = [e > band.high for e in entropies[: number + 1] if e > band.high or e < low]
        assert mask.see(entropy, band) == (outside[-1] if outside else False)


def expected_loss(trainer: LongContextGRPOTrainer, batch: dict[str, Any]) -> Tensor:
    """The mean over the tokens of the completions that are right, times the share of places that have a group."""
    total, tokens = torch.zeros(()), 0
    for row, advantage in zip(trainer.batch.rows, batch["advantages"].tolist(), strict=True):
        if row.in_loss and advantage > 0:
            logprobs = token_logprobs(trainer.model, row, trainer.temperature)
            total = total - ((logprobs - logprobs.detach()).exp() * advantage).sum()
            tokens += len(logprobs)
    return total / tokens * len(trainer.batch.drawn.kept) / trainer.job.grpo.batch_size


def expected_entropy(trainer: LongContextGRPOTrainer) -> float:
    """Of the tempered distribution that tokens are drawn from, by one plain forward of each completion."""
    found = []
    for row in (row for row in trainer.batch.rows if row.in_loss):
        prompt, completion = torch.tensor(row.prompt_ids), torch.tensor(row.completion_ids)
        logits = trainer.model(input_ids=torch.cat([prompt, completion])[None]).logits[0, len(prompt) - 1 : -1]
        logp = (logits / trainer.temperature).log_softmax(-1)
        found.append(-(logp.exp() * logp).sum(-1).detach())
    return float(torch.cat(found).mean())


@pytest.mark.parametrize("mini_batch_size", [4, 2])
def test_masked_completions_are_in_neither_loss_nor_denominator(mini_batch_size: int, make: Make) -> None:
    """One update, for which nothing else scores the batch, and two. Three of four groups are informative."""
    accuracies = [INFORMATIVE, WRONG, [0, 1, 1, 0], [1, 1, 0, 1]]
    trainer = make(
        scripted(accuracies),
        mini_batch_size=mini_batch_size,
        dynamic_sampling={"max_rounds": 1},
        temperature=0.8,
        aepo=ALWAYS,
    )
    move(trainer.model)
    batch = trainer.next_batch()
    assert ("old_per_token_logps" in batch) == (mini_batch_size == 2), "one update has a ratio of 1 to the bit"
    assert trainer._aepo["negatives_masked_share"] == pytest.approx(6 / 12)
    assert trainer._aepo["entropy_batch"] == pytest.approx(expected_entropy(trainer), rel=1e-5)
    assert trainer.own_state()["negative_mask"] == {"on": True}
    assert_gradients(trainer, batch, lambda: expected_loss(trainer, batch))


def test_below_its_threshold_it_changes_nothing(make: Make) -> None:
    def batch(**changes: Any) -> dict[str, Any]:
        trainer = make(scripted([INFORMATIVE, [0, 1, 1, 0]]), batch_size=2, mini_batch_size=2, **changes)
        found = trainer.next_batch()
        assert trainer.own_state()["negative_mask"] == {"on": False}
        return found

    off, on = batch(), batch(aepo=NEVER)
    assert off.keys() == on.keys()
    assert [name for name in off if not torch.equal(off[name], on[name])] == []


def test_a_batch_without_groups_says_nothing_about_the_entropy(make: Make) -> None:
    trainer = make(scripted([WRONG] * 4), dynamic_sampling={"max_rounds": 1}, aepo=ALWAYS)
    trainer.next_batch()
    assert trainer._aepo == {"entropy_batch": None, "negatives_masked_share": 0.0}
    trainer.restore(json.loads(json.dumps(trainer.own_state() | {"negative_mask": {"on": True}})))
    trainer.batches.rollouts.scoring.scorer = scripted([WRONG] * 4)
    trainer.next_batch()
    assert trainer.own_state()["negative_mask"] == {"on": True}


def test_on_policy_leaves_nothing_for_a_later_policy_and_no_ratio(make: Make) -> None:
    """Four informative groups for two places, with vLLM's correction, for which TRL computes old log-probs."""
    trainer = make(
        scripted([INFORMATIVE] * 8),
        batch_size=2,
        mini_batch_size=2,
        clip_high=0.2,
        on_policy=True,
        dynamic_sampling={"max_rounds": 1, "oversampling": 2.0},
    )
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = True
    for _ in range(2):
        batch = trainer.next_batch()
        counts = trainer.batch.drawn.counts()
        assert (counts["groups_surplus"], counts["kept_from_last_step"], counts["groups_kept"]) == (2, 0, 2)
        assert trainer.own_state()["batches"]["surplus"] == []
        assert "old_per_token_logps" not in batch and "importance_sampling_ratio" in batch
        move(trainer.model)
