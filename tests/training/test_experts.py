"""A mixture of experts: trained on packed rows without a router's loss, cut over processes, and saved."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from expert_policy import EXPERTS, write_expert_policy
from parity_stage import score_parity
from safetensors.torch import load_file
from sequence_cells import Training, write_inputs
from sequence_grid import train
from sequence_results import apart, launch, read, worst_weight
from test_resume import PARITY_STAGE, Stage, assert_same, assert_trained, end_state, job_of
from torch import Tensor
from training_jobs import grpo_job, lines, sft_job
from transformers import AutoModelForCausalLM
from trl.trainer.utils import add_fused_lm_head

from qwenlong_core.models import load_tokenizer
from qwenlong_core.training.arguments import vllm_options
from qwenlong_core.training.grpo import build_trainer, train_phase
from qwenlong_core.training.sft import build_trainer as build_sft
from qwenlong_core.training.trainer import LongContextGRPOTrainer


@pytest.fixture(scope="module")
def experts(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of experts with the tiny policy's tokenizer."""
    return write_expert_policy(tmp_path_factory.mktemp("experts"), load_tokenizer(policy))


def of_group(trainer: LongContextGRPOTrainer, model: Any) -> Tensor:
    """Log-probs of one group."""
    completions = [[9, 8, 7], [6, 5, 9], [11, 12, 13], [7, 7, 7]]
    return torch.tensor(trainer.logprobs.of_group(model, list(range(5, 60)), completions))


def build(experts: Path, data: Path, work: Path, **changes: Any) -> LongContextGRPOTrainer:
    inputs = {"model": experts, "data": data}
    return build_trainer(grpo_job(**changes), inputs=inputs, work=work, scorer=score_parity, processes=1, rank=0)


def test_a_reference_with_trls_head_shares_prompts(experts: Path, data: Path, tmp_path: Path) -> None:
    """On a GPU both models keep TRL's head, and the reference's computes no entropies."""
    trainer = build(experts, data, tmp_path, kl_coefficient=0.5)
    assert trainer.logprobs.shares_prompts
    expected = of_group(trainer, trainer.model)
    add_fused_lm_head(trainer.ref_model, temperature=trainer.temperature)
    torch.testing.assert_close(of_group(trainer, trainer.ref_model), expected, atol=1e-5, rtol=1e-5)


def test_a_phase_trains_the_experts_and_saves_what_a_checkpoint_has(experts: Path, data: Path, tmp_path: Path) -> None:
    """Rollouts, KL term, updates, checkpoint and the saved policy."""
    train_phase(grpo_job(kl_coefficient=0.1), {"model": experts, "data": data}, tmp_path, score_parity)
    start, end = (load_file(folder / "model.safetensors") for folder in (experts, tmp_path / "output"))
    assert start.keys() == end.keys()
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    for layer in (0, 1):
        assert f"model.layers.{layer}.mlp.gate.weight" in moved
        names = {f"model.layers.{layer}.mlp.experts.{i}.down_proj.weight" for i in range(EXPERTS)}
        assert len(names & moved) > EXPERTS // 2
    assert all(row["kl"] >= 0 for row in lines(tmp_path / "output" / "metrics.jsonl"))


def test_sft_adds_no_router_loss(experts: Path, tmp_path: Path) -> None:
    row = {"input_ids": [5, 6, 7, 8, 9, 10], "labels": [-100, -100, 7, 8, 9, 10]}
    tokenizer = load_tokenizer(experts)
    trainer = build_sft(sft_job(batch_size=2), experts, tokenizer, [row] * 2, tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=(batch["labels"] != -100).sum())
    plain = AutoModelForCausalLM.from_pretrained(experts)
    ids, labels = (torch.tensor([row[name]]) for name in ("input_ids", "labels"))
    expected = plain(ids, labels=labels, output_router_logits=False).loss
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)


def test_vllm_keeps_experts_as_they_are_sent(experts: Path, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, (mixture, dense) = grpo_job(), (AutoModelForCausalLM.from_pretrained(folder) for folder in (experts, policy))
    assert vllm_options(job, mixture) == vllm_options(job, dense) == {"dtype": "float32"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert vllm_options(job, mixture) == {"dtype": "float32", "moe_backend": "triton"}
    assert vllm_options(job, dense) == {"dtype": "float32"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grid")
    write_inputs(folder)
    return folder


def assert_like_one_process(training: Training, inputs: Path, work: Path, limit: float) -> None:
    """Two processes that compute each row together, against one process and against its separate rows."""
    ours = launch(2, 1, [training], inputs, work / "two")[training]
    whole = Training(dtype=training.dtype, group_size=training.group_size, experts=True)
    rows = Training(dtype=training.dtype, group_size=training.group_size, experts=True, separate=True)
    one, separate = (read([train(each, 1, inputs, work).found()], each) for each in (whole, rows))
    assert ours.cells.keys() == one.cells.keys() and ours.cells
    for slots, found in ours.cells.items():
        assert apart(found, one.cells[slots]) <= limit
        assert worst_weight(found, one.cells[slots]) <= 2 * limit
        if training.dtype == "float32":
            assert apart(found, separate.cells[slots]) <= limit


def test_two_processes_with_sharded_experts_have_the_gradient_of_one(inputs: Path, tmp_path: Path) -> None:
    """FSDP2 over gloo, with old passes, measured KL, surplus and empty slots, with and without checkpointing."""
    assert_like_one_process(Training("fsdp2", experts=True), inputs, tmp_path, limit=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("training", "limit"),
    [
        (Training("ddp", experts=True), 2e-6),
        (Training("ddp", group_size=8, experts=True), 2e-6),
        (Training("fsdp2", group_size=8, experts=True), 2e-6),
    ],
    ids=str,
)
def test_shards_and_group_sizes(training: Training, limit: float, inputs: Path, tmp_path: Path) -> None:
    """The KL term with groups of 8."""
    assert_like_one_process(training, inputs, tmp_path, limit)


@pytest.mark.parametrize(
    ("processes", "span"), [(1, 1), pytest.param(2, 2, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_an_interrupted_phase_of_experts_ends_like_an_undisturbed_one(
    processes: int, span: int, experts: Path, data: Path, tmp_path: Path
) -> None:
    """``span`` processes share a row."""
    job, inputs = job_of(4, 6, processes, span=span), {"model": experts, "data": data}
    straight, killed = (Stage(PARITY_STAGE, job, inputs, tmp_path / name, processes) for name in ("a", "b"))
    straight.finish()
    status, log = killed.interrupt(signal.SIGKILL, after=3)
    assert status == -signal.SIGKILL, log
    assert 3 <= killed.steps_done() < 6
    assert "from checkpoint-" in killed.finish()
    end = end_state(straight.work)
    assert_trained(end, experts, 6, 4)
    assert_same(end_state(killed.work), end)
