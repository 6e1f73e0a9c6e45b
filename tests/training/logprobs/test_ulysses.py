"""Sequence parallelism: how a row is cut, which heads can be dealt, what a cut row sends, and its gradients."""

from __future__ import annotations

import math
import multiprocessing
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes

from qwenlong_core.settings.running import LaunchSettings
from qwenlong_core.spans import heads_reason, possible_spans
from qwenlong_core.training.logprobs.attention import group_attention
from qwenlong_core.training.logprobs.packing import Layout
from qwenlong_core.training.logprobs.ulysses import Share, Span, make_span

ROW = Layout.group(37, (5, 9, 5, 0, 1))
HEADS, KEY_HEADS, WIDTH = 8, 2, 16


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_chunks_cover_the_row_and_differ_by_one_token(size: int) -> None:
    shares = [Share(ROW, Span(ranks=None, rank=rank, size=size)) for rank in range(size)]  # type: ignore[arg-type]
    cut = [list(range(ROW.tokens))[share.own] for share in shares]
    assert [token for chunk in cut for token in chunk] == list(range(57))
    assert max(map(len, cut)) - min(map(len, cut)) <= 1
    assert [len(chunk) for chunk in cut] == shares[0].counts


@pytest.mark.parametrize(
    ("heads", "key_heads", "possible"),
    [
        (40, 8, {1, 2, 4, 5, 8, 10, 20, 40}),  # Qwen2.5-14B and 32B
        (28, 4, {1, 2, 4, 7, 14, 28}),  # Qwen2.5-7B
        (9, 3, {1, 3, 9}),  # SmolLM2-135M
        (8, 1, {1, 2, 4, 8}),
    ],
)
def test_heads_can_be_dealt_to_these_numbers_of_ranks(heads: int, key_heads: int, possible: set[int]) -> None:
    assert set(possible_spans(heads, key_heads)) == possible
    assert {size for size in range(1, 50) if heads_reason(heads, key_heads, size) is None} == possible
    if 3 not in possible:
        reason = heads_reason(heads, key_heads, 3)
        assert reason and f"{heads} query and {key_heads} key heads" in reason and ", ".join(["1", "2", "4"]) in reason


def test_a_row_is_shared_inside_a_machine() -> None:
    two_machines = LaunchSettings(num_processes=16, num_machines=2, across=("srun",), sequence_parallel=8)
    assert two_machines.sequence_parallel == 8
    for wrong in ({"num_processes": 8, "sequence_parallel": 3}, {"num_processes": 8, "num_machines": 4}):
        with pytest.raises(ValueError, match=r"does not divide the \d process\(es\) of a machine.*possible are 1, 2"):
            LaunchSettings.model_validate({"sequence_parallel": 4} | wrong)


def states(heads: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, heads, ROW.tokens, WIDTH, generator=generator, dtype=torch.float64)


def attend_in_a_span(rank: int, size: int, address: str, results: Any) -> None:
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=size)
    span = make_span(size)
    assert span is not None
    share, sent = Share(ROW, span), 0
    exchange = dist.all_to_all_single

    def counting(received: torch.Tensor, given: torch.Tensor, out: list[int], into: list[int], **group: Any) -> Any:
        nonlocal sent
        row = given[0].numel() if len(given) else 0
        sent += row * sum(n for other, n in enumerate(into) if other != rank)
        return exchange(received, given, out, into, **group)

    dist.all_to_all_single = counting
    whole = [states(n, seed) for seed, n in enumerate((HEADS, KEY_HEADS, KEY_HEADS))]
    own = [x[:, :, share.own].clone().requires_grad_() for x in whole]
    output = share.to_tokens(group_attention(*share.to_heads(*own), ROW, 0.3))
    forward = sent
    # Every rank's loss is the whole row's, as the trainer's is: the gradients then come out once for each rank.
    gathered = share.gather((output * states(HEADS, 9)[:, :, share.own]).sum((1, 3)))
    gathered.sum().backward()
    results[rank] = (gathered.detach(), [x.grad / size for x in own], forward)
    dist.destroy_process_group()


@pytest.mark.parametrize("size", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_attention_and_gradients_are_those_of_the_whole_row(size: int, tmp_path: Any) -> None:
    """In double precision, with more ranks than key heads too; and the numbers that a rank sends, by the formula."""
    multiprocessing.set_forkserver_preload([attend_in_a_span.__module__])  # torch is imported once, not by each
    with torch.multiprocessing.Manager() as manager:
        results = manager.dict()
        arguments = (size, f"file://{tmp_path}/meet", results)
        start_processes(attend_in_a_span, arguments, nprocs=size, start_method="forkserver")
        ranks = [results[rank] for rank in range(size)]
    query, key, value = (states(n, seed).requires_grad_() for seed, n in enumerate((HEADS, KEY_HEADS, KEY_HEADS)))
    output = group_attention(query, key, value, ROW, 0.3)
    expected = (output * states(HEADS, 9)).sum((1, 3))
    expected.sum().backward()
    for gathered, _, _ in ranks:
        torch.testing.assert_close(gathered, expected.detach(), atol=1e-12, rtol=1e-12)
    for number, leaf in enumerate((query, key, value)):
        ours = torch.cat([gradients[number] for _, gradients, _ in ranks], dim=2)
        torch.testing.assert_close(ours, leaf.grad, atol=1e-12, rtol=1e-12)
    key_heads = math.lcm(KEY_HEADS, size)
    formula = (2 * HEADS + 2 * key_heads) * WIDTH * ROW.tokens / size * (size - 1) / size
    assert sum(numbers for _, _, numbers in ranks) / size == pytest.approx(formula, rel=0.02)
