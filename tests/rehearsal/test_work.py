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
EXPERTS = {"moe_intermediate_size": 96, "num_experts": 64, "num_experts_per_tok": 4, "head_dim": 32}
PROFILES: dict[str, dict[str, int]] = {"8gpu-14b": {}, "l1.5-30b": EXPERTS}
PROMPT, COMPLETION = 300, 40


def asked(profile: str, stage: str, *, checkpointing: bool) -> dict[str, Any]:
    changes = ["launch.sequence_parallel=1", f"launch.gradient_checkpointing={str(checkpointing).lower()}"]
    settings = load_settings(profile, changes)
    job = SFTJob.of(settings, None) if stage == "sft" else GRPOJob.of(settings, 1, None)
    return {
        "job": job.model_dump(mode="json"),
        "shape": model_shape(settings.model) | SMALL | PROFILES[profile],
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


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("checkpointing", [True, False])
def test_the_step_computes_what_the_formulas_say(profile: str, checkpointing: bool) -> None:
    jobs = [asked(profile, stage, checkpointing=checkpointing) for stage in ("grpo", "sft")]
    shape = shape_from(jobs[0]["shape"], "small")
    group = shared_row(PROMPT, [COMPLETION] * load_settings(profile).grpo.group_size)
    row = Tokens(PROMPT + COMPLETION, causal(PROMPT + COMPLETION), COMPLETION)
    (grpo,), (sft,) = run_process(jobs)
    once = forward(shape, group)
    old = {"matmul, old pass": once.products, "attention, old pass": once.attention}
    assert grpo.flops == expected(shape, group, checkpointing=checkpointing) | old
    assert sft.flops == expected(shape, row, checkpointing=checkpointing)
