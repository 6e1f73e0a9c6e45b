"""Hand-worked cases of what is kept, what is dropped and where groups go."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training_jobs import example

from qwenlong_core.records import Completion, Group, Score
from qwenlong_core.settings.training import DynamicSamplingSettings
from qwenlong_core.training.dynamic_sampling import (
    Draw,
    PromptStream,
    arrange,
    counted_scores,
    fill_batch,
    in_loss,
    round_size,
    uninformative_reason,
)


def score(accuracy: float | None, penalty: float = 0.0) -> Score:
    if accuracy is None:
        return Score(value=None, status="unscored")
    return Score(value=accuracy + penalty, rule=accuracy, length_penalty=penalty)


def group(name: int, accuracies: Sequence[float | None], cut: Sequence[bool] = ()) -> Group:
    """A group with these accuracies; ``cut`` tells which completions are truncated, none by default."""
    ends = ["length" if c else "stop" for c in cut] or ["stop"] * len(accuracies)
    return Group(
        example=example(name),
        completions=tuple(Completion(text="", token_ids=(1,), finish_reason=end) for end in ends),
        scores=tuple(score(a) for a in accuracies),
    )


def rounds(count: int, oversampling: float = 1.0) -> DynamicSamplingSettings:
    return DynamicSamplingSettings(max_rounds=count, oversampling=oversampling)


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ([1, 1, 1, 1], "all_right"),
        ([0, 0, 0, 0], "all_wrong"),
        ([1, 0, 0, 0], None),
        ([0, 1, 1, 1], None),
        ([], "truncated"),
        ([1, 0, None, 0], "unscored"),
        ([None, None, None, None], "unscored"),
        ([1.0, 1.0 - 1e-9, 1.0], "all_right"),
        ([1e-9, 0.0], "all_wrong"),
    ],
)
def test_reasons(accuracies: list[float | None], expected: str | None) -> None:
    assert uninformative_reason([score(a) for a in accuracies], 1e-6) == expected


def test_a_length_penalty_does_not_make_a_group_informative() -> None:
    scores = [score(1.0), score(1.0, -0.5), score(1.0, -1.0)]
    assert len({s.value for s in scores}) == 3
    assert uninformative_reason(scores, 1e-6) == "all_right"


def test_the_judges_verdict_counts_as_accuracy() -> None:
    scores = [Score(value=1.0, rule=0.0, judge=1.0), Score(value=0.0, rule=0.0, judge=0.0)]
    assert uninformative_reason(scores, 1e-6) is None


@pytest.mark.parametrize(
    ("accuracies", "cut", "kept", "masked"),
    [
        ([1, 0, 0], [False, True, True], None, "all_right"),
        ([1, 0, 0], [False, False, True], None, None),
        ([0, 0, 0], [True, True, True], "all_wrong", "truncated"),
        ([1, None, 0], [False, True, False], "unscored", None),
    ],
)
def test_truncated_completions_count_or_not(
    accuracies: list[float | None], cut: list[bool], kept: str | None, masked: str | None
) -> None:
    drawn = group(0, accuracies, cut)
    assert in_loss(drawn, "keep") == [True] * 3
    assert in_loss(drawn, "mask") == [not c for c in cut]
    assert uninformative_reason(counted_scores(drawn, "keep"), 1e-6) == kept
    assert uninformative_reason(counted_scores(drawn, "mask"), 1e-6) == masked


class Scripted:
    """Rolls out groups whose accuracies are written down beforehand, and notes the rounds."""

    def __init__(self, accuracies: Sequence[Sequence[float | None]]) -> None:
        self.accuracies, self.rounds = list(accuracies), []

    def __call__(self, draws: list[Draw]) -> list[Group]:
        self.rounds.append(len(draws))
        return [group(draw.row, self.accuracies.pop(0)) for draw in draws]


YES, RIGHT, WRONG, UNKNOWN = [1, 0], [1, 1], [0, 0], [None, 1]


def test_rounds_refill_what_is_missing() -> None:
    """Wanted 3. Round 1: one of three. Round 2: one of two. Round 3: one of one."""
    roll_out = Scripted([YES, RIGHT, WRONG, UNKNOWN, YES, YES])
    stream = PromptStream(10, seed=0)
    batch = fill_batch(stream, roll_out, 3, rounds(5))
    assert roll_out.rounds == [3, 2, 1]
    assert batch.counts() == {
        "groups_drawn": 6,
        "groups_kept": 3,
        "groups_all_right": 1,
        "groups_all_wrong": 1,
        "groups_unscored": 1,
        "groups_truncated": 0,
        "groups_surplus": 0,
        "kept_from_last_step": 0,
        "stale": 0,
        "rounds": 3,
    }
    order = [f"p1-{d.row}" for d in PromptStream(10, seed=0).take(6)]
    assert [g.example.id for g in batch.kept] == [order[0], order[4], order[5]]
    assert stream.position == 6


def test_rounds_are_bounded() -> None:
    batch = fill_batch(PromptStream(10, 0), Scripted([WRONG] * 10), 2, rounds(3))
    assert (batch.rounds, len(batch.kept), len(batch.dropped)) == (3, 0, 6)


def test_one_round_never_refills() -> None:
    batch = fill_batch(PromptStream(10, 0), Scripted([YES, WRONG]), 2, rounds(1))
    assert (batch.rounds, len(batch.kept)) == (1, 1)


def test_processes_draw_alike_and_what_is_over_is_surplus() -> None:
    """Two processes: the one missing group is drawn as two, and the second informative one is surplus."""
    roll_out = Scripted([YES, WRONG, YES, YES])
    batch = fill_batch(PromptStream(10, 0), roll_out, 2, rounds(3), processes=2)
    assert roll_out.rounds == [2, 2]
    assert (batch.counts()["groups_kept"], batch.counts()["groups_surplus"]) == (2, 1)
    assert batch.counts()["groups_drawn"] == 4


def test_oversampling_draws_more_than_is_missing() -> None:
    """Wanted 4 at 1.5: six draws, of which two are informative; then three for the two that are missing."""
    roll_out = Scripted([YES, WRONG, WRONG, YES, RIGHT, RIGHT, YES, YES, YES])
    batch = fill_batch(PromptStream(10, 0), roll_out, 4, rounds(5, oversampling=1.5))
    assert roll_out.rounds == [6, 3]
    assert (len(batch.kept), len(batch.surplus), len(batch.dropped)) == (4, 1, 4)


def test_surplus_is_used_first() -> None:
    """A surplus of two, wanted 3: one draw. This step's groups are that one and no other."""
    surplus = [group(100, YES), group(101, YES)]
    roll_out = Scripted([YES])
    batch = fill_batch(PromptStream(10, 0), roll_out, 3, rounds(5), surplus=surplus)
    assert roll_out.rounds == [1]
    assert [g.example.id for g in batch.kept[:2]] == ["p1-100", "p1-101"]
    counts = batch.counts()
    assert (counts["groups_drawn"], counts["groups_kept"], counts["kept_from_last_step"]) == (1, 3, 2)
    assert batch.groups == batch.kept[2:]


def test_what_has_no_place_a_second_time_is_dropped_as_stale() -> None:
    surplus = [group(100 + i, YES) for i in range(5)]
    batch = fill_batch(PromptStream(10, 0), Scripted([]), 3, rounds(5), surplus=surplus)
    counts = batch.counts()
    assert (counts["groups_drawn"], counts["kept_from_last_step"], counts["stale"], counts["rounds"]) == (0, 3, 2, 0)
    assert batch.surplus == []


@given(missing=st.integers(1, 500), processes=st.integers(1, 64), over=st.sampled_from([1.0, 1.5, 3.0]))
def test_a_round_is_the_least_multiple_that_covers_what_is_wanted(missing: int, processes: int, over: float) -> None:
    size = round_size(missing, over, processes)
    assert size % processes == 0
    assert missing * over <= size < missing * over + processes + 1


@given(
    accuracies=st.lists(st.sampled_from([YES, RIGHT, WRONG, UNKNOWN]), min_size=200, max_size=200),
    wanted=st.integers(1, 6),
    over=st.sampled_from([1.0, 2.0, 3.0]),
    processes=st.sampled_from([1, 2, 4]),
)
def test_every_group_drawn_is_trained_on_at_most_once_and_within_a_step(
    accuracies: list[list[float | None]], wanted: int, over: float, processes: int
) -> None:
    """Three steps: what was drawn is kept now, kept by the next step, stale there, or dropped for a reason."""
    roll_out, stream, surplus = Scripted(accuracies), PromptStream(50, 0), []
    for _ in range(3):
        batch = fill_batch(stream, roll_out, wanted, rounds(2, over), processes=processes, surplus=surplus)
        counts = batch.counts()
        assert counts["kept_from_last_step"] + counts["stale"] == len(surplus)
        assert batch.kept[: batch.from_last] == surplus[: batch.from_last]
        assert not {id(g) for g in batch.groups} & {id(g) for g in surplus}
        assert len(batch.kept) <= wanted
        assert not batch.surplus or len(batch.kept) == wanted
        assert counts["groups_drawn"] == len(batch.kept) - batch.from_last + len(batch.surplus) + len(batch.dropped)
        surplus = batch.surplus


@given(rows=st.integers(2, 20), gone=st.sets(st.integers(0, 19), max_size=8), seed=st.integers(0, 5))
def test_retired_rows_are_passed_over_and_the_others_keep_their_order(rows: int, gone: set[int], seed: int) -> None:
    gone = {row for row in gone if row < rows}
    if len(gone) == rows:
        return
    stream = PromptStream(rows, seed)
    before = stream.take(3)
    stream.retired = gone
    drawn = before + stream.take(2 * rows)
    straight = PromptStream(rows, seed).take(stream.position)
    assert drawn == [d for i, d in enumerate(straight) if i < 3 or d.row not in gone]
    resumed = PromptStream(rows, seed, stream.position)
    resumed.retired = gone
    assert resumed.take(5) == stream.take(5)


@given(rows=st.integers(1, 30), takes=st.lists(st.integers(0, 20), max_size=6), seed=st.integers(0, 5))
def test_the_stream_resumes_anywhere_and_visits_every_row_once_an_epoch(rows: int, takes: list[int], seed: int) -> None:
    straight = PromptStream(rows, seed).take(sum(takes))
    resumed: list[Draw] = []
    for count in takes:
        resumed += PromptStream(rows, seed, position=len(resumed)).take(count)
    assert resumed == straight
    for epoch in range(sum(takes) // rows):
        assert sorted(d.row for d in straight if d.epoch == epoch) == list(range(rows))


def test_the_stream_has_the_order_of_torchs_own_shuffle() -> None:
    """TRL's sampler draws its epochs from one seeded generator in the same way."""
    generator = torch.Generator().manual_seed(11)
    expected = [row for _ in range(3) for row in torch.randperm(7, generator=generator).tolist()]
    assert [d.row for d in PromptStream(7, seed=11).take(21)] == expected


def test_a_full_batch_is_spread_evenly_and_wholly() -> None:
    groups = [group(i, YES) for i in range(8)]
    slots = arrange(groups, [1] * 8, range(8), batch_size=8, mini_batches=2, processes=2, per_forward=1)
    placed = [[g.example.id for g in own if g is not None] for own in slots]
    # mini-batch 0 has groups 0 2 4 6, of which process 0 takes 0 4; mini-batch 1 has 1 3 5 7
    assert placed == [["p1-0", "p1-4", "p1-1", "p1-5"], ["p1-2", "p1-6", "p1-3", "p1-7"]]


def test_groups_of_like_length_run_at_the_same_time() -> None:
    """Mini-batch 0 has the groups of 9, 30, 8 and 40, mini-batch 1 those of 5, 6, 7 and 50."""
    tokens = [9, 5, 30, 6, 8, 7, 40, 50]
    sizes = {"batch_size": 8, "mini_batches": 2, "processes": 2, "per_forward": 1}
    slots = arrange(tokens, tokens, range(8), **sizes)
    assert slots == [[40, 9, 50, 6], [30, 8, 7, 5]]
    slots = arrange(tokens[:3], tokens[:3], range(3), **sizes)
    assert slots == [[30, None, 5, None], [9, None, None, None]], "empty slots come last"


def test_groups_on_one_document_run_in_one_forward() -> None:
    """Of two processes with two forwards of two groups; the number is a group's work."""
    groups = ["a9", "b8", "c7", "a6", "d5", "c4", "e3", "f2"]
    sizes = {"batch_size": 8, "mini_batches": 1, "processes": 2, "per_forward": 2}
    slots = arrange(groups, [int(g[1]) for g in groups], [g[0] for g in groups], **sizes)
    assert slots == [["a9", "a6", "b8", "e3"], ["c7", "c4", "d5", "f2"]]
    # Three on one document do not fit; of two updates, each has its own members, as without documents.
    groups = ["a9", "a8", "a7", "b6", "a5"]
    sizes = {"batch_size": 8, "mini_batches": 2, "processes": 1, "per_forward": 2}
    slots = arrange(groups, [int(g[1]) for g in groups], [g[0] for g in groups], **sizes)
    assert slots == [["a9", "a7", "a5", None, "a8", "b6", None, None]]


@given(
    documents=st.lists(st.integers(0, 5), max_size=16),
    mini_batches=st.sampled_from([1, 2]),
    processes=st.sampled_from([1, 2]),
    per_forward=st.sampled_from([1, 2, 4]),
)
def test_documents_change_only_the_order_within_a_mini_batch(
    documents: list[int], mini_batches: int, processes: int, per_forward: int
) -> None:
    groups, tokens = list(range(len(documents))), [(i * 7) % 5 for i in range(len(documents))]
    members = []
    for on in (documents, groups):
        slots = arrange(
            groups, tokens, on, batch_size=16, mini_batches=mini_batches, processes=processes, per_forward=per_forward
        )
        assert [len(own) for own in slots] == [16 // processes] * processes
        size = 16 // processes // mini_batches
        members.append([{g for own in slots for g in own[m * size : (m + 1) * size]} for m in range(mini_batches)])
        if on is groups:  # nothing to put together: dealt to the processes one by one
            longest = sorted(groups[0::mini_batches], key=lambda i: -tokens[i])
            assert slots[0][:size] == (longest[::processes] + [None] * size)[:size]
    assert members[0] == members[1]


@given(kept=st.integers(0, 16), mini_batches=st.sampled_from([1, 2, 4]), processes=st.sampled_from([1, 2, 4]))
def test_every_process_has_as_many_slots_and_no_group_is_lost(kept: int, mini_batches: int, processes: int) -> None:
    groups = [group(i, YES) for i in range(kept)]
    tokens = [(i * 7) % 5 for i in range(kept)]
    sizes = {"batch_size": 16, "mini_batches": mini_batches, "processes": processes, "per_forward": 1}
    slots = arrange(groups, tokens, range(kept), **sizes)
    assert [len(own) for own in slots] == [16 // processes] * processes
    assert sorted(g.example.id for own in slots for g in own if g) == sorted(g.example.id for g in groups)
    per_mini_batch = 16 // mini_batches // processes
    in_mini_batch = [
        sum(g is not None for own in slots for g in own[m * per_mini_batch : (m + 1) * per_mini_batch])
        for m in range(mini_batches)
    ]
    assert max(in_mini_batch) - min(in_mini_batch) <= 1
