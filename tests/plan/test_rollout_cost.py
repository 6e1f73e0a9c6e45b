"""Rollouts by formula: by hand, and against a public estimate of the 14B profile on eight H100."""

from __future__ import annotations

from dataclasses import replace

import pytest
from plans import A3B, B14, B32, FLAT, H100, little

from qwenlong_core.plan.rollout import LEVERS, Engine, at_once, least_group, rollout

SHARE = Engine(devices=8, parallel=8, memory=0.5 * H100.memory, graphs=True)


def test_the_cache_of_a_token():
    # 2 x 48 layers x 8 heads x 128 x 2 bytes; 24 KiB on each of eight GPUs.
    assert B14.cache_bytes() == 196_608
    assert B32.cache_bytes() == 262_144
    assert B14.cache_bytes(1) == 98_304


@pytest.mark.parametrize(("shape", "tokens"), [(B14, 1.4e6), (B32, 0.9e6 * 8 / 8)])
def test_tokens_of_cache_beside_half_a_gpu(shape, tokens):
    room = SHARE.memory - 2 * shape.parameters / 8
    # 1.4 and "0.9" million tokens were published for a share of 0.5; the second is conservative.
    assert room / (shape.cache_bytes() / 8) == pytest.approx(tokens, rel=0.25)


def test_decoding_by_hand():
    shape = little(layers=1)
    machine = H100.model_copy(update={"reading": 1000.0, "products": 1e18, "operation": 0.0})
    engine = Engine(devices=1, parallel=1, memory=1e9)
    # 2 groups of 2 on 10 tokens, 4 new ones each; all four completions fly at once.
    found = rollout(shape, machine, engine, prompt=10, completion=4, groups=2, group=2)
    weights = 2 * (shape.parameters - 40)  # the input embedding is looked up, not read
    token = 2 * 1 * 1 * 2 * 2
    assert found.at_once == 4
    assert found.bytes_read == 4 * weights + 4 * 4 * (10 + 2) * token
    assert found.decode == pytest.approx(found.bytes_read / 1000)
    once = rollout(shape, machine, replace(engine, reads_prompt_once=True), prompt=10, completion=4, groups=2, group=2)
    assert once.bytes_read == 4 * weights + 4 * 4 * (5 + 2) * token


def test_a_group_at_a_time_by_hand():
    """Nine completions whose lengths spread evenly up to ten tokens: the k-th ends after k of them."""
    shape = little(layers=1)
    machine = H100.model_copy(update={"reading": 1000.0, "products": 1e18, "operation": 0.0})
    engine = Engine(devices=1, parallel=1, memory=1e9, groups_at_once=1, group_at_a_time=True)
    found = rollout(shape, machine, engine, prompt=100, completion=5, groups=2, group=9, longest=10)
    weights, token = 2 * (shape.parameters - 40), 2 * 1 * 1 * 2 * 2
    running = [10 - step for step in range(1, 11)]  # in the ten steps, of those that ended before the last
    reads = sum(1 if many >= 8 else many for many in running)
    assert found.at_once == 9
    assert found.bytes_read == pytest.approx(2 * (10 * weights + (reads * 100 + 9 * 5 * 5 / 2) * token))


@pytest.mark.parametrize(
    ("shape", "parallel", "drafts", "least"),
    [(B14, 8, 1, 133), (B14, 1, 1, 17), (A3B, 4, 1, 133), (B14, 8, 1.8, 8)],
)
def test_the_group_from_which_a_prompt_is_read_once(shape, parallel, drafts, least):
    """8 key heads (4 of A3B), on a GPU with 132 multiprocessors."""
    assert least_group(shape, replace(SHARE, parallel=parallel, tokens_a_step=drafts)) == least


def test_decoding_reads_the_experts_that_any_token_takes():
    shape = little(layers=1, experts=4, active=2)
    machine = H100.model_copy(update={"reading": 1000.0, "products": 1e18, "operation": 0.0})
    engine = Engine(devices=1, parallel=1, memory=1e9)
    found = rollout(shape, machine, engine, prompt=10, completion=4, groups=2, group=2)
    # Four tokens at once, each through half of the experts: one of them in sixteen is left alone.
    weights = 2 * (shape.parameters - 40 - 4 * 96 / 16)
    assert found.bytes_read == 4 * weights + 4 * 4 * (10 + 2) * 8


def test_more_devices_than_key_heads_hold_the_same_keys():
    shape = little(layers=1, kv_heads=2)
    engine = Engine(devices=8, parallel=8, memory=1e9)
    two, four = (
        rollout(shape, H100, replace(engine, parallel=parallel), prompt=10, completion=4, groups=8, group=2)
        for parallel in (2, 4)
    )
    assert two.cache / two.at_once == four.cache / four.at_once


@pytest.mark.parametrize(("prompt", "decode", "prefill"), [(10_000, 845, 32), (36_000, 2650, 163), (90_000, 6398, 651)])
def test_a_public_estimate_of_14b(prompt, decode, prefill):
    """128 groups, 1.6 draws each, C = 4K, prefill at 250 TFLOP/s, decoding at 70% of 3.35 TB/s."""
    machine = FLAT.model_copy(update={"products": 250e12, "attention": 250e12})
    found = rollout(B14, machine, SHARE, prompt=prompt, completion=4000, groups=128 * 1.6, group=8)
    assert found.decode == pytest.approx(decode, rel=0.06)
    assert found.prefill == pytest.approx(prefill, rel=0.05)


def test_what_makes_decoding_cheaper():
    def seconds(engine: Engine) -> float:
        return rollout(B14, H100, engine, prompt=90_000, completion=4000, groups=204.8, group=8).decode

    now = seconds(SHARE)
    found = {name: now / seconds(change(SHARE)) for name, change in LEVERS.items()}
    # The cache is nearly all that is read there. Read once a group, a step reads 13.25K of 92K tokens.
    assert found["fp8 cache"] == pytest.approx(2.0, rel=0.1)
    assert found["prompt read once a group"] == pytest.approx(6.4, rel=0.2)
    assert found["speculation"] == pytest.approx(1.8)
    has_all = replace(SHARE, cache_bytes=1, tokens_a_step=1.8, reads_prompt_once=True)
    assert all(change(has_all) == has_all for change in LEVERS.values()), "who has it gains nothing"


def test_one_row_must_fit():
    with pytest.raises(ValueError, match="do not hold 1 of the weights and the cache of one row of 130,000 tokens"):
        at_once(B14, Engine(devices=1, parallel=1, memory=35e9), 120_000, 10_000, 8)
