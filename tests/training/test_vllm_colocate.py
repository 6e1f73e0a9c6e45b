"""TRL with vLLM in the trainer's process, on a CPU: ``make test-vllm``."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from expert_policy import write_expert_policy
from safetensors.torch import load_file
from training_jobs import grpo_job, lines
from transformers import AutoConfig, LlamaForCausalLM

from qwenlong_core.models import load_tokenizer

ROOT = Path(__file__).parents[2]
# One process; nothing compiled, which takes minutes; one GiB of cache.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_USE_AOT_COMPILE": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "PYTHONPATH": str(ROOT),
}


NGRAM = {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 1}}


@pytest.fixture
def wide_policy(policy: Path, tmp_path: Path) -> Path:
    """The tiny policy with heads of 64, since vLLM's attention on a CPU knows none of 16, and with YaRN past
    64 positions, which every prompt is longer than."""
    config = AutoConfig.from_pretrained(policy)
    config.update({"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64})
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    config.update({"rope_parameters": config.rope_parameters | yarn, "max_position_embeddings": 256})
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "wide")
    load_tokenizer(policy).save_pretrained(tmp_path / "wide")
    return tmp_path / "wide"


@pytest.fixture
def experts(policy: Path, tmp_path: Path) -> Path:
    """A mixture of experts of sizes that vLLM computes on a CPU."""
    return write_expert_policy(tmp_path / "experts", load_tokenizer(policy), hidden=128, width=64, heads=2, key_heads=1)


def run_stage(policy: Path, data: Path, work: Path, **changes: Any) -> str:
    """What the stage of the test job with these changes prints."""
    phase = {"max_prompt_tokens": 256, "max_completion_tokens": 8, "cache_tokens": 2, "steps": 2}
    job = grpo_job(**{"engine": "vllm-colocate", "phase": phase, "batch_size": 2, "save_steps": 2, **changes})
    (work / "job.json").write_text(job.model_dump_json())
    command = [
        sys.executable,
        str(Path(__file__).with_name("vllm_stage.py")),
        "--job",
        str(work / "job.json"),
        f"--input=model={policy}",
        f"--input=data={data}",
        "--work",
        str(work),
    ]
    done = subprocess.run(command, env=os.environ | ENVIRONMENT, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stdout


@pytest.mark.vllm
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("kind", "changes", "prompts_a_call"),
    [
        ("wide_policy", {}, {"2"}),
        ("experts", {}, {"2"}),
        ("wide_policy", {"lora": {"rank": 8}}, {"2"}),
        ("wide_policy", {"group_size": 8, "vllm": {"options": NGRAM, "group_at_a_time": True}}, {"1"}),
    ],
    ids=["wide_policy", "experts", "adapter", "speculation, group by group"],
)
def test_two_steps_of_phase_one_with_weights_kept_in_step(
    kind: str,
    changes: dict[str, Any],
    prompts_a_call: set[str],
    request: pytest.FixtureRequest,
    data: Path,
    tmp_path: Path,
) -> None:
    """One update at a high learning rate lies between the steps: with stale weights, another temperature or another
    RoPE scaling, the second step's log-probs would be far from the trainer's. A nucleus explains a ratio down to
    ``top_p``."""
    start_policy: Path = request.getfixturevalue(kind)
    printed = run_stage(
        start_policy, data, tmp_path, **{"learning_rate": 1e-2, "temperature": 0.7, "top_p": 0.95} | changes
    )
    calls = re.findall(r"vLLM: (\d) requests, (\d) prompts, n=(\d)", printed)
    group = str(changes.get("group_size", 4))
    assert all(requests == distinct and n == group for requests, distinct, n in calls), "a prompt once for its group"
    assert {distinct for _, distinct, _ in calls} == prompts_a_call
    rows = lines(tmp_path / "output" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert row["groups_kept"] > 0
        assert row["grad_norm"] > 0
        assert row["engine_mismatch_max"] < 0.05
        assert row["importance_ratio_min"] > 0.95 - 0.01
        assert row["importance_ratio_max"] < 1 + 0.05
    start, end = (
        load_file(start_policy / "model.safetensors"),
        load_file(tmp_path / "output/model.safetensors"),
    )
    moved = max(float((end[name] - start[name]).abs().max()) for name in start)
    assert moved > 5e-3
    frozen = torch.equal(start["model.embed_tokens.weight"], end["model.embed_tokens.weight"])
    assert frozen == ("lora" in changes)


@pytest.mark.vllm
@pytest.mark.timeout(1800)
def test_groups_one_after_the_other_draw_what_they_draw_together(wide_policy: Path, data: Path, tmp_path: Path) -> None:
    """So cold that the likeliest token is drawn. The stage asserts that no earlier group is left in the engine."""
    drawn = {}
    for by_groups in (False, True):
        work = tmp_path / str(by_groups)
        work.mkdir()
        printed = run_stage(
            wide_policy,
            data,
            work,
            group_size=8,
            phase={"max_prompt_tokens": 256, "max_completion_tokens": 8, "cache_tokens": 2, "steps": 1},
            dynamic_sampling={"max_rounds": 1},
            temperature=1e-4,
            vllm={"group_at_a_time": by_groups},
        )
        calls = re.findall(r"vLLM: (\d) requests, (\d) prompts, n=8", printed)
        assert calls == ([("1", "1")] * 2 if by_groups else [("2", "2")])
        drawn[by_groups] = [json.loads(line) for line in re.findall(r"drawn: (.*)", printed)]
    assert len(drawn[True]) == 2
    assert drawn[True] == drawn[False], "in the same order, too"
