"""The work of a rehearsed step, beside the formulas of a plan: the same matrix products, to the last one."""

from __future__ import annotations

from typing import Any

import pytest

from qwenlong_core.jobs import GRPOJob, SFTJob
from qwenlong_core.plan.flops import Flops, Tokens, backward, causal, forward, shared_row
from qwenlong_core.plan.shapes import Shape, shape_from
from qwenlong_core.rehearsal.rehearse import model_shape, run_process
from qwenlong_core.settings.profiles import load_settings

pytestmark = pytest.mark.slow

SMALL = {
    "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8, "num_key_value_heads": 2,
    "num_hidden_layers": 3,
}  # fmt: skip
PROMPT, COMPLETION = 300, 40


def asked(stage: str, *, checkpointing: bool) -> dict[str, Any]:
    changes = ["launch.sequence_parallel=1", f"launch.gradient_checkpointing={str(checkpointing).lower()}"]
    settings = load_settings("8gpu-14b", changes)
    job = SFTJob.of(settings, None) if stage == "sft" else GRPOJob.of(settings, 1, None)
    return {
        "job": job.model_dump(mode="json"),
        "shape": model_shape(settings.model) | SMALL,
        "prompt_tokens": PROMPT,
        "completion_tokens": COMPLETION,
        "layers": [3],
    }


def expected(shape: Shape, tokens: Tokens, *, checkpointing: bool) -> dict[str, float]:
    parts = {"forward": forward(shape, tokens), "backward": backward(shape, tokens, checkpointing=checkpointing)}
    return {
        f"{kind}, {part}": count
        for part, flops in parts.items()
        for kind, count in (("matmul", flops.products), ("attention", _attention(flops)))
    }


def _attention(flops: Flops) -> float:
    return flops.attention + flops.attention_backward


def test_the_step_computes_what_the_formulas_say() -> None:
    cases = [(stage, checkpointing) for stage in ("grpo", "sft") for checkpointing in (True, False)]
    jobs = [asked(stage, checkpointing=checkpointing) for stage, checkpointing in cases]
    shape = shape_from(jobs[0]["shape"], "small")
    size = load_settings("8gpu-14b").grpo.group_size
    rows = {
        "grpo": shared_row(PROMPT, [COMPLETION] * size),
        "sft": Tokens(PROMPT + COMPLETION, causal(PROMPT + COMPLETION), COMPLETION),
    }
    runs = [part for start in (0, 1) for part in run_process(jobs[start::2])]  # a launch setting, so two processes
    for (stage, checkpointing), (run,) in zip(cases[0::2] + cases[1::2], runs, strict=True):
        found = {name: count for name, count in run.flops.items() if "old pass" not in name}
        assert found == expected(shape, rows[stage], checkpointing=checkpointing), (stage, checkpointing)
        once = forward(shape, rows[stage])
        if stage == "grpo":
            assert run.flops["matmul, old pass"] == once.products
            assert run.flops["attention, old pass"] == once.attention
