"""TRL with vLLM in the trainer's process, on a CPU: ``make test-vllm``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.vllm
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["wide_policy", "experts"])
def test_two_steps_of_phase_one_with_weights_kept_in_step(
    kind: str, request: pytest.FixtureRequest, data: Path, tmp_path: Path
) -> None:
    """One update at a high learning rate lies between the steps: with stale weights, another temperature or another
    RoPE scaling, the second step's log-probs would be far from the trainer's. A nucleus explains a ratio down to
    ``top_p``."""
    start_policy: Path = request.getfixturevalue(kind)
    phase = {"max_prompt_tokens": 256, "max_completion_tokens": 8, "cache_tokens": 2, "steps": 2}
    job = grpo_job(
        engine="vllm-colocate", phase=phase, batch_size=2, learning_rate=1e-2, save_steps=2, temperature=0.7, top_p=0.95
    )
    (tmp_path / "job.json").write_text(job.model_dump_json())
    command = [
        sys.executable,
        str(Path(__file__).with_name("vllm_stage.py")),
        "--job",
        str(tmp_path / "job.json"),
        f"--input=model={start_policy}",
        f"--input=data={data}",
        "--work",
        str(tmp_path),
    ]
    done = subprocess.run(command, env=os.environ | ENVIRONMENT, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    calls = re.findall(r"vLLM: (\d) requests, (\d) prompts, n=(\d)", done.stdout)
    assert calls
    assert all(requests == distinct and n == "4" for requests, distinct, n in calls), "a prompt goes once for its group"
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
    assert not torch.equal(start["model.embed_tokens.weight"], end["model.embed_tokens.weight"])
