"""Rollouts by formula: how many completions an engine holds at once, and how long prefill and decoding take.

Decoding is bound by reading: every token reads the weights once for all completions in flight, and each completion's
keys and values. For one device of an engine over T devices::

    cache of a token   = 2 * layers * key heads * head size * bytes / min(T, key heads)
    room for cache     = share * memory - weights / T
    groups at once     = room / ((P + G * C / 2) * cache of a token)        the prompt's blocks are kept once a group
    bytes of all       = steps * weights / T + completions * C * (P + C / 2) * cache of a token
    seconds            = max(bytes / rate of reading, FLOPs / rate of products)

Where the kernel reads a group's prompt once, ``P`` in the last term is ``P / G``: our own engine does, vLLM does not.

With ``grpo.vllm.group_at_a_time`` vLLM does while eight of a group or more run. A group takes as many steps as its
longest completion, L, has tokens; if its lengths spread evenly up to L, its prompt is read ``L * (G + 21) / (G + 1)``
times in place of ``G * C``: once a step until seven are left, and once for each of those.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from qwenlong_core.plan.assumptions import SPECULATION
from qwenlong_core.plan.flops import Tokens, causal, forward
from qwenlong_core.plan.machine import Machine
from qwenlong_core.plan.shapes import Shape
from qwenlong_core.settings.training import LEAST_IN_COMMON

_MAX_SEQUENCES = 1024
"""vLLM's own limit for requests in flight, as the trainer sets it."""
_MULTIPROCESSORS = 132
"""Of an H100 and an H200."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """How completions are sampled."""

    devices: int
    """That work on rollouts."""
    parallel: int
    """That share one copy of the model."""
    memory: float
    """Bytes of one device that the engine may use; infinite where it takes what it needs."""
    weight_bytes: float = 2
    """Of a weight."""
    cache_bytes: float = 2
    """Of a number in the cache; 1 with an fp8 cache."""
    reads_prompt_once: bool = False
    """Whether a decoding step reads the prompt's cache once for the completions of a group."""
    tokens_a_step: float = 1.0
    """More with speculation."""
    groups_at_once: int | None = None
    """``None`` leaves it to memory."""
    group_at_a_time: bool = False
    """One group after the other, each until its longest completion ends; its prompt is read once a step for eight
    completions or more."""
    graphs: bool = False
    """Whether a decoding step is one recorded graph, so that starting its operations takes no time."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """What sampling costs."""

    prefill: float
    """Seconds."""
    decode: float
    """Seconds."""
    at_once: float
    """Completions in flight in one copy of the model."""
    cache: float
    """Bytes of cache on one device when so many are in flight."""
    bytes_read: float
    """By one device in decoding."""


def at_once(shape: Shape, engine: Engine, prompt: float, completion: float, group: int) -> float:
    """Completions in flight in one copy of the model.

    Raises:
        ValueError: the engine's memory does not hold the weights and one completion.
    """
    room = engine.memory - engine.weight_bytes * shape.parameters / engine.parallel
    token = _cache_of_token(shape, engine)
    if room < (prompt + completion) * token:
        raise ValueError(
            f"the engine's {engine.memory / 2**30:.1f} GiB a GPU do not hold {1 / engine.parallel:.3g} of the weights "
            f"and the cache of one row of {prompt + completion:,.0f} tokens"
        )
    groups = room / ((prompt + group * completion / 2) * token)
    if engine.groups_at_once is not None:
        groups = min(groups, engine.groups_at_once)
    # Where not even a group fits, its completions take turns.
    alone = room / ((prompt + completion / 2) * token)
    return min(max(groups * group, min(1.0 * group, alone)), _MAX_SEQUENCES)


def _cache_of_token(shape: Shape, engine: Engine) -> float:
    """Bytes on one device, which holds a key head at least."""
    return shape.cache_bytes(engine.cache_bytes) / min(engine.parallel, shape.kv_heads)


def prefill_seconds(shape: Shape, machine: Machine, engine: Engine, prompt: float, groups: float) -> float:
    """Seconds to read each group's prompt once, on all devices."""
    flops = forward(shape, Tokens(prompt, causal(prompt), 1))
    once = flops.products / machine.products + flops.attention / machine.attention
    return groups * once / engine.devices


def rollout(
    shape: Shape,
    machine: Machine,
    engine: Engine,
    *,
    prompt: float,
    completion: float,
    groups: float,
    group: int,
    longest: float | None = None,
) -> Rollout:
    """Sample ``groups`` groups of ``group`` completions each.

    Args:
        shape: The model's.
        machine: Where.
        engine: How.
        prompt: Tokens.
        completion: Tokens, on average.
        groups: How many.
        group: Completions of each.
        longest: Tokens of a group's longest completion, for an engine that takes one at a time.

    Raises:
        ValueError: see :func:`at_once`.
    """
    flying = at_once(shape, engine, prompt, completion, group)
    mine = groups * group * engine.parallel / engine.devices  # completions of one copy of the model
    flying = min(flying, max(mine, 1.0))
    token = _cache_of_token(shape, engine)
    weights = engine.weight_bytes * _weights_read(shape, flying) / engine.parallel
    lasting = (longest or completion) if engine.group_at_a_time else completion
    steps = math.ceil(mine / flying) * lasting / engine.tokens_a_step
    times = _prompt_reads(engine, group, completion, lasting) * mine / group / engine.tokens_a_step
    own = mine * completion / engine.tokens_a_step * completion / 2
    read = steps * weights + (times * prompt + own) * token
    flops = 2 * mine * completion * (shape.layers * shape.layer_products + shape.embedding) / engine.parallel
    starting = 0.0 if engine.graphs else steps * machine.operation * operations(shape)
    starting += mine * completion * shape.vocabulary * machine.drawing
    decode = max(read / machine.reading, flops / machine.products) + starting
    held = flying / group * (prompt + group * completion) * token
    prefill = prefill_seconds(shape, machine, engine, prompt, groups)
    return Rollout(prefill=prefill, decode=decode, at_once=flying, cache=held, bytes_read=read)


def _prompt_reads(engine: Engine, group: int, completion: float, longest: float) -> float:
    """How often a group's prompt is read, without speculation; see the formulas at the top."""
    if engine.group_at_a_time:
        few = LEAST_IN_COMMON - 1
        return longest * (group - few + few * LEAST_IN_COMMON / 2) / (group + 1)
    return completion if engine.reads_prompt_once else group * completion


def least_group(shape: Shape, engine: Engine) -> int:
    """Completions from which on vLLM reads a common prompt once: its own rule on an H100, for prompts of any length."""
    if engine.tokens_a_step > 1:
        return LEAST_IN_COMMON
    heads, key_heads = (max(1, number // engine.parallel) for number in (shape.heads, shape.kv_heads))
    return max(LEAST_IN_COMMON, math.ceil(heads / _MULTIPROCESSORS) * _MULTIPROCESSORS // key_heads + 1)


def _weights_read(shape: Shape, flying: float) -> float:
    """Weights that a decoding step reads for so many tokens: without the embedding, and of the experts those that at
    least one token goes through, if each takes any of them equally often."""
    found = float(shape.parameters - (0 if shape.tied else shape.embedding))
    if shape.experts:
        found -= shape.layers * shape.experts * shape.mlp * (1 - shape.active / shape.experts) ** flying
    return found


def operations(shape: Shape) -> int:
    """Operations of one pass through the model: about 40 a layer, and some around them."""
    return 40 * shape.layers + 40


LEVERS: dict[str, Callable[[Engine], Engine]] = {
    "fp8 cache": lambda engine: replace(engine, cache_bytes=min(engine.cache_bytes, 1)),
    "prompt read once a group": lambda engine: replace(engine, reads_prompt_once=True),
    "speculation": lambda engine: replace(engine, tokens_a_step=SPECULATION),
}
"""What would make decoding cheaper: engines with a change each. An engine that has it already gains nothing."""
