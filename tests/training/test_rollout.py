"""Scoring beside sampling: it overlaps, keeps the order, passes errors on and bounds a judge's requests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from endpoint_server import says, served
from training_jobs import example

from qwenlong_core.generation.engine import Sampling
from qwenlong_core.models import load_tokenizer
from qwenlong_core.records import Completion, Example, Score
from qwenlong_core.rewards.hybrid import score_completions
from qwenlong_core.rewards.judge import Judge
from qwenlong_core.settings.rewards import JudgeSettings, RewardSettings
from qwenlong_core.settings.training import Phase
from qwenlong_core.training.dynamic_sampling import Draw
from qwenlong_core.training.rollout import Prompts, Rollouts, Scorer

ROWS = [example(i) for i in range(6)]
DRAWS = [Draw(row, epoch=0) for row in (4, 1, 0, 5)]


class Answers:
    """An engine that answers ``wrong SEED CALL``, and may wait before a call."""

    def __init__(self, before: Any = lambda call: None) -> None:
        self.calls, self.before = 0, before

    def generate(self, prompts: Sequence[Any], samples: int, sampling: Sampling) -> list[list[Completion]]:
        self.before(self.calls)
        self.calls += 1
        done = Completion(text="", token_ids=(1,), finish_reason="stop")
        texts = [f"Therefore, the answer is {sum(prompt) % 1000 + 1000}." for prompt in prompts]
        return [[replace(done, text=text)] * samples for text in texts]


@pytest.fixture(scope="module")
def prompts(policy: Path) -> Prompts:
    phase = Phase(max_prompt_tokens=256, max_completion_tokens=8, cache_tokens=2, steps=1)
    return Prompts(load_tokenizer(policy), ROWS, phase, 8192)


def rollouts(prompts: Prompts, engine: Any, scorer: Scorer, prompts_a_call: int | None = 1) -> Rollouts:
    sampling = Sampling(1.0, 1.0, 8, seed=1)
    return Rollouts(
        prompts,
        engine,
        scorer,
        group_size=2,
        sampling=sampling,
        rank=0,
        processes=1,
        prompts_a_call=prompts_a_call,
    )


def by_text(completions: Sequence[Completion]) -> list[Score]:
    return [Score(value=float(c.text.rstrip(".").split()[-1])) for c in completions]


def test_the_engine_samples_on_while_a_part_is_scored(prompts: Prompts) -> None:
    """The second call goes ahead only when the first part is scored: possible only if both run at once."""
    scored, in_time = threading.Event(), []

    async def score(examples: Sequence[Example], completions: Sequence[Completion]) -> list[Score]:
        scored.set()
        return by_text(completions)

    engine = Answers(before=lambda call: in_time.append(call == 0 or scored.wait(30)))
    rollouts(prompts, engine, score)(DRAWS)
    assert in_time == [True] * 4


def test_the_parts_change_nothing_and_come_back_in_order(prompts: Prompts) -> None:
    """The first part takes longest to score."""
    pauses = [0.3, 0.1, 0.0, 0.0]

    async def score(examples: Sequence[Example], completions: Sequence[Completion]) -> list[Score]:
        await asyncio.sleep(pauses.pop(0) if pauses else 0.0)
        return by_text(completions)

    apart, whole = Answers(), Answers()
    groups = rollouts(prompts, apart, score)(DRAWS)
    assert groups == rollouts(prompts, whole, score, prompts_a_call=None)(DRAWS)
    assert (apart.calls, whole.calls) == (4, 1)
    assert [group.example.id for group in groups] == ["p1-4", "p1-1", "p1-0", "p1-5"]
    for group in groups:
        assert [score.value for score in group.scores] == [s.value for s in by_text(group.completions)]


def test_what_goes_wrong_in_scoring_is_raised(prompts: Prompts) -> None:
    async def score(examples: Sequence[Example], completions: Sequence[Completion]) -> list[Score]:
        raise RuntimeError(f"cannot score {examples[0].id}")

    with pytest.raises(RuntimeError, match="cannot score p1-4"):
        rollouts(prompts, Answers(), score)(DRAWS)


def test_a_judge_is_asked_no_more_at_once_than_its_bound_over_all_parts(prompts: Prompts) -> None:
    with served(lambda n, request: says("[[YES]]", after=0.2)) as server:
        judge = Judge(JudgeSettings(base_url=server.url, model="m", concurrency=2))

        async def score(examples: Sequence[Example], completions: Sequence[Completion]) -> list[Score]:
            # A word is no number, so the rule leaves it to the judge.
            named = [replace(e, answer_type="span", answers=("Anna",)) for e in examples]
            texts = [replace(c, text=f"Therefore, the answer is Berta {i}.") for i, c in enumerate(completions)]
            return await score_completions(named, texts, RewardSettings(), judge=judge)

        groups = rollouts(prompts, Answers(), score)(DRAWS)
    assert [score.judge for group in groups for score in group.scores] == [1.0] * 8
    assert len(server.requests) == 8
    assert server.most_open == 2


def test_a_prompt_takes_four_bytes_a_token(prompts: Prompts) -> None:
    for ids, text in zip(prompts.token_ids, prompts.examples):
        assert len(ids) > 20, text.id
        assert ids.itemsize * len(ids) == len(ids.tobytes()) == 4 * len(ids)
