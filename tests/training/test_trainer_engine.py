"""What vLLM's rollouts are asked through TRL."""

from __future__ import annotations

import pickle
from array import array
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from qwenlong_core.generation.engine import Sampling
from qwenlong_core.models import load_tokenizer
from qwenlong_core.training.trainer_engine import TrainerEngine


def test_a_prompt_travels_once_for_its_completions(policy: Path) -> None:
    """With tensor parallelism TRL sends G requests a prompt to all processes of a group, pickled."""
    sent: list[Any] = []

    def single_turn(requests: list[list[int]], *_: Any) -> tuple[list[list[int]], list[list[float]]]:
        sent.append(requests)
        return [[number, 2] for number in range(len(requests))], [[-1.0, -2.0]] * len(requests)

    tokenizer = load_tokenizer(policy)
    trainer: Any = SimpleNamespace(
        args=SimpleNamespace(generation_kwargs=None),
        processing_class=tokenizer,
        eos_token_ids=[2],
        _generate_single_turn=single_turn,
    )
    prompts = [array("i", range(1000, 9000)), array("i", range(2000, 3000))]
    groups = TrainerEngine(trainer).generate(prompts, 8, Sampling(1.0, 1.0, 2))
    (requests,) = sent
    assert requests == [list(prompts[0])] * 8 + [list(prompts[1])] * 8
    assert all(type(ids) is list for ids in requests), "vLLM takes lists"
    assert len(pickle.dumps(requests)) < 1.01 * len(pickle.dumps([list(prompt) for prompt in prompts]))
    assert [[c.token_ids[0] for c in group] for group in groups] == [list(range(8)), list(range(8, 16))]
