"""Batches without a trainer: filling, surplus, retirement, difficulty, and exact resume from JSON."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training_jobs import example, grpo_job, scripted

from qwenlong_core.generation.engine import Sampling
from qwenlong_core.models import load_tokenizer
from qwenlong_core.records import Completion
from qwenlong_core.training.batches import Batches
from qwenlong_core.training.curriculum import Difficulty
from qwenlong_core.training.dynamic_sampling import PromptStream
from qwenlong_core.training.rollout import Prompts, Rollouts
from qwenlong_core.training.rows import packed_work
from qwenlong_core.training.surplus import OldLogprobs

INFORMATIVE, WRONG, UNSCORED = [1, 0, 0, 0], [0, 0, 0, 0], [1, None, 0, 0]
ROWS = [example(i) for i in range(8)]
FILLER = 7
ONE_ROUND = {"max_rounds": 1}


class Engine:
    """Completions of two tokens, of which the second depends on the prompt, the seed and its number."""

    def generate(self, prompts: Sequence[Any], samples: int, sampling: Sampling) -> list[list[Completion]]:
        done = Completion(text="", token_ids=(1,), finish_reason="stop", logprobs=(-0.5, -0.25))
        of = [sum(prompt) + (sampling.seed or 0) % 97 for prompt in prompts]
        return [[replace(done, token_ids=(1, (seed + i) % 1000)) for i in range(samples)] for seed in of]


class Policy:
    """Log-probs that tell the call they come from, so that it shows which policy computed them."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def __call__(self, prompt: Sequence[int], completions: Sequence[Sequence[int]]) -> OldLogprobs:
        self.calls.append(list(prompt))
        return tuple(tuple(-0.1 * len(self.calls) for _ in tokens) for tokens in completions)


@pytest.fixture(scope="module")
def prompts(policy: Path) -> Prompts:
    return Prompts(load_tokenizer(policy), ROWS, grpo_job().phase, 8192)


@pytest.fixture
def make(prompts: Prompts) -> Callable[..., Batches]:
    """``make(accuracies, **settings)``: batches of two, whose groups are scored as written down."""

    def build(accuracies: Sequence[Sequence[float | None]], **changes: Any) -> Batches:
        settings = grpo_job(**{"batch_size": 2, "mini_batch_size": 2} | changes).grpo
        sampling = Sampling(1.0, 1.0, 8, seed=5)
        rollouts = Rollouts(
            prompts, Engine(), scripted(accuracies), group_size=4, sampling=sampling, rank=0, processes=1
        )
        return Batches(settings, rollouts, PromptStream(len(ROWS), seed=5), {}, filler=FILLER)

    return build


def as_json(batches: Batches) -> dict[str, Any]:
    """The state as it comes back from a checkpoint."""
    state: dict[str, Any] = json.loads(json.dumps(batches.state_dict()))
    return state


def test_a_batch_fills_over_rounds_and_becomes_rows(make: Callable[..., Batches], prompts: Prompts) -> None:
    batches = make([INFORMATIVE, WRONG, [0, 1, 1, 0]])
    batch = batches.next_batch(Policy())
    assert (batch.number, batch.drawn.rounds, batch.drawn.counts()["groups_kept"]) == (1, 2, 2)
    first, _, third = (draw.row for draw in PromptStream(len(ROWS), seed=5).take(3))
    assert [row.prompt_ids for row in batch.rows] == [prompts.token_ids[first]] * 4 + [prompts.token_ids[third]] * 4
    assert [row.reward for row in batch.rows] == [1, 0, 0, 0, 0, 1, 1, 0]
    assert all(row.in_loss and row.logprobs == (-0.5, -0.25) and row.old_logprobs is None for row in batch.rows)
    assert batches.prompt_tokens(batch.drawn.kept) == sum(len(prompts.token_ids[row]) for row in (first, third))


def test_empty_slots_are_fillers_outside_the_loss_and_their_updates_learn_nothing(make: Callable[..., Batches]) -> None:
    """One informative group of four, two updates of two forwards: the group is in the first forward."""
    sizes = {"batch_size": 4, "mini_batch_size": 2, "micro_batch_size": 1}
    batch = make([INFORMATIVE, WRONG, WRONG, WRONG], dynamic_sampling=ONE_ROUND, **sizes).next_batch(Policy())
    assert batch.informative_forwards == [True, False, False, False]
    assert [batch.update_learns(update, 2) for update in (0, 1)] == [True, False]
    for row in batch.rows[4:]:
        assert (row.prompt_ids, row.completion_ids, row.in_loss) == ([FILLER], [FILLER], False)
        assert math.isnan(row.reward)


def test_surplus_goes_to_the_next_step_with_the_log_probs_of_its_own(make: Callable[..., Batches]) -> None:
    """Four of four groups are informative, two fit. The next step needs no draw."""
    policy = Policy()
    batches = make([INFORMATIVE] * 4, dynamic_sampling={"max_rounds": 1, "oversampling": 2.0})
    first = batches.next_batch(policy)
    assert len(policy.calls) == 2
    assert [one.group for one in batches.surplus] == first.drawn.surplus
    assert [one.old_logprobs[0] for one in batches.surplus] == [(-0.1, -0.1), (-0.2, -0.2)]

    second = batches.next_batch(policy)
    assert second.drawn.kept == first.drawn.surplus
    assert (second.number, second.drawn.counts()["groups_drawn"], batches.surplus) == (2, 0, [])
    assert [row.old_logprobs for row in second.rows] == [(-0.1, -0.1)] * 4 + [(-0.2, -0.2)] * 4
    assert len(policy.calls) == 2, "no surplus, so no further pass"


def test_batches_resume_from_json_to_the_bit(make: Callable[..., Batches]) -> None:
    """One object draws three batches; another starts from the first one's state and draws the other two."""
    full = [INFORMATIVE, WRONG, INFORMATIVE, INFORMATIVE]  # two for the batch, one for the next step
    accuracies = [*full, WRONG, INFORMATIVE, *full]
    changes = {
        "dynamic_sampling": {"max_rounds": 1, "oversampling": 2.0},
        "curriculum": {"retire_after_visits": 1},
    }
    undisturbed, policy = make(accuracies, **changes), Policy()
    undisturbed.next_batch(policy)
    state = as_json(undisturbed)
    assert state["surplus"] and state["retired"] and state["difficulty"]
    expected = [undisturbed.next_batch(Policy()) for _ in range(2)]

    resumed = make(accuracies[4:], **changes)
    resumed.load_state_dict(state)
    assert as_json(resumed) == state
    assert [resumed.next_batch(Policy()) for _ in range(2)] == expected
    assert expected[0].drawn.from_last == 1
    assert as_json(resumed) == as_json(undisturbed)


def test_prompts_are_retired_when_they_were_visited_in_vain(
    make: Callable[..., Batches], caplog: pytest.LogCaptureFixture
) -> None:
    """Eight rows, two a step, all wrong. After three steps only a batch is left, which is drawn again."""
    batches = make([WRONG] * 10, dynamic_sampling=ONE_ROUND, curriculum={"retire_after_visits": 1})
    retired = []
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            batches.next_batch(Policy())
            retired.append(len(batches.stream.retired))
    assert retired == [2, 4, 6, 6, 6]
    assert caplog.text.count("2 prompt(s) without a right completion in 1 visits") == 1


def test_retired_prompts_stay_so_after_a_resume(make: Callable[..., Batches]) -> None:
    changes = {"dynamic_sampling": ONE_ROUND, "curriculum": {"retire_after_visits": 1}}
    batches = make([WRONG, INFORMATIVE], **changes)
    batches.next_batch(Policy())
    state = as_json(batches)
    retired = set(batches.stream.retired)
    assert len(retired) == 1
    following = batches.stream.take(12)
    resumed = make([], **changes)
    resumed.load_state_dict(state)
    assert resumed.stream.retired == retired
    assert resumed.stream.take(12) == following
    assert not retired & {draw.row for draw in following}


def test_difficulty_counts_every_scored_group(make: Callable[..., Batches]) -> None:
    """Dropped groups count too; a group with an unscored completion says nothing."""
    batches = make([WRONG, INFORMATIVE, UNSCORED], dynamic_sampling={"max_rounds": 2})
    batches.next_batch(Policy())
    drawn = [ROWS[draw.row].id for draw in PromptStream(len(ROWS), seed=5).take(2)]
    assert batches.difficulties == {drawn[0]: Difficulty(1, 0.0), drawn[1]: Difficulty(1, 0.25)}


def test_work_by_hand() -> None:
    """Two completions of 10 and 20 tokens after 100: 130 tokens, and 5,000 + 1,050 + 2,200 pairs that attend."""
    assert packed_work(100, [10, 20]) == pytest.approx(130 + 8_250 / 30_720)
    assert packed_work(60_000, [10]) > packed_work(40_000, [10_000, 9_000]), "attention over a long prompt counts"
