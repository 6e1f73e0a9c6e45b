"""Batches in which every task has its share, and a reward's deviation by task."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from statistics import stdev

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_batches import INFORMATIVE, WRONG, Engine, Policy, as_json, prompts  # noqa: F401
from test_dynamic_sampling import Scripted, group, rounds
from training_jobs import DOMAINS, example, grpo_job, scripted

from qwenlong_core.generation.engine import Sampling
from qwenlong_core.records import Example
from qwenlong_core.training.batches import Batches
from qwenlong_core.training.curriculum import Difficulty
from qwenlong_core.training.dynamic_sampling import Draw, PromptStream, fill_batch
from qwenlong_core.training.grpo import prompt_stream
from qwenlong_core.training.rollout import Prompts, Rollouts
from qwenlong_core.training.tasks import BalancedStream, equal_places, kept_by_task, task_deviations

YES, RIGHT = [1, 0], [1, 1]
PATIENT = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""On a machine that is busy."""


def of_tasks(counts: Sequence[int]) -> list[Example]:
    """So many rows of each domain, in turn as far as they go."""
    names = [DOMAINS[i] for turn in range(max(counts)) for i, count in enumerate(counts) if turn < count]
    return [replace(example(i), domain=name) for i, name in enumerate(names)]


def drawn_tasks(rows: Sequence[Example], draws: Sequence[Draw]) -> list[str]:
    return [rows[draw.row].domain for draw in draws]


def test_places_by_hand() -> None:
    """Eight places for three tasks: two are over, which go round."""
    tasks = ["a", "b", "c"]
    assert equal_places(tasks, 8, 0) == {"a": 3, "b": 3, "c": 2}
    assert equal_places(tasks, 8, 1) == {"a": 3, "b": 2, "c": 3}
    assert equal_places(tasks, 8, 2) == {"a": 2, "b": 3, "c": 3}
    assert equal_places(tasks, 2, 1) == {"a": 1, "b": 0, "c": 1}, "fewer places than tasks"
    assert equal_places(tasks, 6, 5) == {"a": 2, "b": 2, "c": 2}


@PATIENT
@given(tasks=st.integers(1, 7), batch_size=st.integers(1, 40), first=st.integers(0, 9))
def test_places_are_equal_within_one_and_over_as_many_steps_as_tasks(tasks: int, batch_size: int, first: int) -> None:
    names = [str(i) for i in range(tasks)]
    total: Counter[str] = Counter()
    for step in range(first, first + tasks):
        places = equal_places(names, batch_size, step)
        assert sum(places.values()) == batch_size
        assert max(places.values()) - min(places.values()) <= 1
        total.update(places)
    assert {total[name] for name in names} == {batch_size}


def test_a_round_by_hand() -> None:
    """Math misses two and logical one; at 1.5 that is three and two, and a sixth for the three processes."""
    rows = of_tasks([4, 4, 4])
    stream = BalancedStream(rows, "domain", batch_size=6, seed=0)
    draws = stream.take_round({"math": 2, "logical": 1, "multihop": 0}, 1.5, processes=3)
    assert drawn_tasks(rows, draws) == ["math", "logical", "math", "logical", "math", "math"]
    assert stream.state == {"logical": 2, "math": 4, "multihop": 0}


def test_a_place_that_stays_empty_is_given_to_no_other_task() -> None:
    """Logical is never informative. The others keep their two places each; what they have more is surplus."""
    rows = of_tasks([4, 4, 4])
    stream = BalancedStream(rows, "domain", batch_size=6, seed=0)

    def roll_out(draws: list[Draw]) -> list[object]:
        groups = [group(0, [1, 1] if rows[d.row].domain == "logical" else YES) for d in draws]
        return [replace(g, example=rows[d.row]) for g, d in zip(groups, draws)]

    batch = fill_batch(stream, roll_out, 6, rounds(3, 1.5))
    assert kept_by_task(batch.kept, "domain") == {"groups_kept_math": 2, "groups_kept_multihop": 2}
    assert Counter(g.example.domain for g in batch.surplus) == {"math": 1, "multihop": 1}
    assert {g.example.domain for g, _ in batch.dropped} == {"logical"} and batch.rounds == 3
    # The next step has a place for a surplus group of each task first.
    after = fill_batch(stream, roll_out, 6, rounds(1), surplus=batch.surplus, step=1)
    assert (after.from_last, after.stale) == (2, 0)
    assert after.kept[:2] == batch.surplus and len(after.kept) == 4


@PATIENT
@given(
    counts=st.lists(st.integers(4, 9), min_size=1, max_size=3),
    batch_size=st.integers(1, 4),
    luck=st.integers(0, 10_000).map(random.Random),
    over=st.sampled_from([1.0, 2.0]),
    processes=st.sampled_from([1, 2, 4]),
    stop=st.integers(0, 5),
)
def test_no_task_has_more_than_its_places_and_a_resume_draws_the_same(
    counts: list[int],
    batch_size: int,
    luck: random.Random,
    over: float,
    processes: int,
    stop: int,
) -> None:
    """Six steps; at one of them the stream is made anew from its state, as JSON."""
    rows = of_tasks(counts)
    scripted_groups = Scripted([luck.choice([YES, RIGHT]) for _ in range(400)])

    def roll_out(draws: list[Draw]) -> list[object]:
        everything.extend(draws)
        return [replace(g, example=rows[d.row]) for g, d in zip(scripted_groups(draws), draws)]

    stream, straight = (BalancedStream(rows, "domain", batch_size, seed=3) for _ in range(2))
    surplus: list[object] = []
    everything: list[Draw] = []
    for step in range(6):
        if step == stop:
            state = json.loads(json.dumps(stream.state))
            stream = BalancedStream(rows, "domain", batch_size, seed=3)
            stream.state = state
        batch = fill_batch(
            stream, roll_out, batch_size, rounds(2, over), processes=processes, surplus=surplus, step=step
        )
        assert not len(everything) % processes
        places = stream.places(batch_size, step)
        kept = Counter(g.example.domain for g in batch.kept)
        assert all(kept[task] <= places[task] for task in kept)
        missing = {task for task in places if kept[task] < places[task]}
        assert not missing & {g.example.domain for g in batch.surplus}, "surplus only where there is no place"
        assert not missing or batch.rounds == 2
        surplus = batch.surplus
    for task, count in Counter(drawn_tasks(rows, everything)).items():
        assert [d for d in everything if rows[d.row].domain == task] == straight._take(task, count)


@PATIENT
@given(counts=st.lists(st.integers(2, 6), min_size=2, max_size=3), seed=st.integers(0, 3))
def test_each_task_goes_through_all_of_its_rows_before_it_begins_anew(counts: list[int], seed: int) -> None:
    rows = of_tasks(counts)
    stream = BalancedStream(rows, "domain", batch_size=len(counts), seed=seed)
    drawn = [d for step in range(12) for d in stream.take_round(stream.places(len(counts), step), 1.0, 1)]
    for task, count in zip(DOMAINS, counts):
        own = [d for d in drawn if rows[d.row].domain == task]
        assert len(own) == 12, "one a step, however many rows it has"
        for epoch in range(12 // count):
            assert sorted(d.row for d in own if d.epoch == epoch) == [
                i for i, row in enumerate(rows) if row.domain == task
            ]


def test_retired_rows_are_passed_over_and_each_task_keeps_its_places(prompts: Prompts) -> None:  # noqa: F811
    """Rows 0 to 7 are three math, three logical and two multihop; three places, so each keeps one. All are hopeless."""
    batches = balanced(prompts, [WRONG] * 12)
    retired = []
    for _ in range(4):
        batches.next_batch(Policy())
        retired.append(Counter(example(row).domain for row in batches.stream.retired))
    assert retired[0] == {"math": 1, "logical": 1, "multihop": 1}
    assert retired[1] == retired[3] == {"math": 2, "logical": 2, "multihop": 1}
    assert all(value == Difficulty(value.visits, 0.0) for value in batches.difficulties.values())


def balanced(prompts: Prompts, accuracies: Sequence[Sequence[float]], **changes: object) -> Batches:  # noqa: F811
    """Batches of three with one place for each domain."""
    settings = {
        "batch_size": 3, "mini_batch_size": 3, "balance_tasks": True, "dynamic_sampling": {"max_rounds": 1},
        "curriculum": {"retire_after_visits": 1},
    }  # fmt: skip
    job = grpo_job(**settings | changes)
    rollouts = Rollouts(
        prompts, Engine(), scripted(accuracies), group_size=4, sampling=Sampling(1.0, 1.0, 8, seed=5), rank=0,
        processes=1,
    )  # fmt: skip
    return Batches(job.grpo, rollouts, prompt_stream(job, prompts.examples), {}, filler=7)


def test_balanced_batches_resume_from_json_to_the_bit(prompts: Prompts) -> None:  # noqa: F811
    """Two draws for a place: one batch, then two more, once straight on and once from the first one's state."""
    changes = {"dynamic_sampling": {"max_rounds": 2, "oversampling": 2.0}}
    first = [WRONG, INFORMATIVE, INFORMATIVE, INFORMATIVE, INFORMATIVE, INFORMATIVE]
    accuracies = [*first, *[INFORMATIVE, WRONG] * 20]
    straight = balanced(prompts, accuracies, **changes)
    straight.next_batch(Policy())
    state = as_json(straight)
    assert len(state["stream"]) == 3 and state["surplus"] and state["retired"]
    expected = [straight.next_batch(Policy()) for _ in range(2)]
    resumed = balanced(prompts, accuracies[6:], **changes)
    resumed.load_state_dict(state)
    assert as_json(resumed) == state
    assert [resumed.next_batch(Policy()) for _ in range(2)] == expected
    assert expected[0].drawn.from_last > 0


def test_each_update_has_its_share_of_every_task(prompts: Prompts) -> None:  # noqa: F811
    """Six places, two updates: each has a group of every domain, in whatever order they were drawn."""
    batches = balanced(prompts, [INFORMATIVE] * 6, batch_size=6, mini_batch_size=3)
    batch = batches.next_batch(Policy())
    names = {tuple(ids): e.domain for e, ids in zip(prompts.examples, prompts.token_ids)}
    of_rows = [names[tuple(row.prompt_ids)] for row in batch.rows]
    assert [set(of_rows[:12]), set(of_rows[12:])] == [set(DOMAINS)] * 2


def test_a_task_with_too_few_rows_is_refused() -> None:
    job = grpo_job(balance_tasks=True, batch_size=9, mini_batch_size=9)
    with pytest.raises(ValueError, match=r"'multihop' has 2 row\(s\) in this phase, fewer than its 3 of .*=9 prompts"):
        prompt_stream(job, of_tasks([5, 5, 2]))
    assert isinstance(prompt_stream(job, of_tasks([5, 5, 0])[:10]), BalancedStream), "a task that is not there"
    assert isinstance(prompt_stream(grpo_job(), of_tasks([5, 5, 2])), PromptStream)


def test_deviations_by_hand() -> None:
    """Rewards 1 0 and 1 1 0 0 of two groups of math; 0 and 1 of one of logical, whose third is cut."""
    math, logical = replace(example(0), domain="math"), replace(example(1), domain="logical")
    groups = [
        replace(group(0, [1, 0]), example=math),
        replace(group(0, [1, 1, 0, 0]), example=math),
        replace(group(1, [1, 0, 0], cut=[False, False, True]), example=logical),
    ]
    found = task_deviations(groups, "domain", "mask")
    assert found == pytest.approx({"math": (0.3) ** 0.5, "logical": 0.5**0.5})
    assert found["math"] == stdev([1, 0, 1, 1, 0, 0])
    assert task_deviations(groups, "domain", "keep")["logical"] == pytest.approx((1 / 3) ** 0.5)
    assert list(task_deviations(groups, "source", "mask")) == ["test"]


def test_a_source_of_any_name_is_a_metric() -> None:
    odd = replace(group(0, [1, 0]), example=replace(example(0), source="my rows: v2"))
    assert kept_by_task([odd], "source") == {"groups_kept_my_rows__v2": 1}
