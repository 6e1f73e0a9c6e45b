"""RoPE scaling is written into the base policy once; rollouts, training and every later load go by it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from parity_stage import score_parity
from training_jobs import grpo_job, lines

from qwenlong_core.data.prompts import prompt_tokens
from qwenlong_core.data.rows import read_phase
from qwenlong_core.models import import_base, load_policy, load_tokenizer
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.training.grpo import train_phase

SCALED = ModelSettings(name="tiny", yarn_factor=4, yarn_original_positions=64)


@pytest.fixture
def scaled_policy(policy: Path, tmp_path: Path) -> Path:
    import_base(SCALED.model_copy(update={"name": str(policy)}), tmp_path / "scaled")
    return tmp_path / "scaled"


def logits(folder: Path) -> torch.Tensor:
    """Of 200 tokens ``[200, vocabulary]``."""
    ids = torch.arange(800, 1000)[None]
    with torch.no_grad():
        output: torch.Tensor = load_policy(folder, SCALED)(input_ids=ids).logits[0]
    return output


def test_the_base_is_scaled_and_nothing_else_is_changed(policy: Path, scaled_policy: Path) -> None:
    plain, scaled = (load_policy(folder, SCALED) for folder in (policy, scaled_policy))
    assert scaled.config.max_position_embeddings == 256
    expected = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    assert {name: scaled.config.rope_parameters[name] for name in expected} == expected
    before, after = plain.state_dict(), scaled.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert not torch.allclose(logits(policy)[-1], logits(scaled_policy)[-1], atol=1e-3), "the scaling acts"


def test_engine_and_trainer_agree_past_the_models_own_positions(
    scaled_policy: Path, data: Path, tmp_path: Path
) -> None:
    tokenizer, rows_in = load_tokenizer(scaled_policy), read_phase(data / "train.parquet", 1)
    assert min(prompt_tokens(tokenizer, row) for row in rows_in) > 64, "past the positions that the factor multiplies"
    phase = {"max_prompt_tokens": 240, "max_completion_tokens": 8, "cache_tokens": 2, "steps": 2}
    train_phase(grpo_job(phase=phase, batch_size=2), {"model": scaled_policy, "data": data}, tmp_path, score_parity)
    rows = lines(tmp_path / "output/metrics.jsonl")
    assert all(row["grad_norm"] > 0 and row["engine_mismatch_max"] < 1e-4 for row in rows)
    trained, base = (load_policy(folder, SCALED).config for folder in (tmp_path / "output", scaled_policy))
    assert trained.rope_parameters == base.rope_parameters
    assert trained.max_position_embeddings == 256
