"""Packing: no row sees another, each step has the same gradient, and nothing is padded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from training_jobs import example, lines, sft_job

from qwenlong_core.data.rows import write_examples
from qwenlong_core.models import load_policy, load_tokenizer
from qwenlong_core.settings.training import SFTSettings
from qwenlong_core.training.sft import build_trainer, run, tokenized
from qwenlong_core.training.sft_packing import balanced, data_share, packed

WORDS = (3, 40, 11, 7, 25, 60, 2, 18)


def uneven_rows(policy: Path) -> list[dict[str, list[int]]]:
    """Eight rows of very different lengths."""
    examples = [replace(example(i), context="apples " * WORDS[i]) for i in range(8)]
    return tokenized(load_tokenizer(policy), examples, 256)


@given(lengths=st.lists(st.integers(1, 500), min_size=1, max_size=24), packs=st.integers(1, 8))
def test_packs_hold_every_row_once_and_are_balanced(lengths: list[int], packs: int) -> None:
    found = balanced(lengths, packs)
    assert sorted(row for members in found for row in members) == list(range(len(lengths)))
    if len(lengths) >= packs:
        assert all(found)
    totals = [sum(lengths[i] for i in members) for members in found]
    best_possible = max(max(lengths), -(-sum(lengths) // packs))
    assert max(totals) <= 2 * best_possible
    assert max(totals) - min(totals) <= max(lengths)


def test_packs_by_hand() -> None:
    """9, 7, 6, 5, 3 over two packs: 9 | 7, then 6 joins the 7, 5 joins the 9, and 3 joins the 13 rather than the 14."""
    assert balanced([5, 9, 3, 7, 6], 2) == [[1, 0], [3, 4, 2]]


def pack_inputs(trainer: Any) -> dict[str, torch.Tensor]:
    return trainer.data_collator([trainer.train_dataset[0]])


def reference_logps(model: Any, row: dict[str, list[int]]) -> torch.Tensor:
    """Log-probs of one row on its own, by a plain forward."""
    labels = torch.tensor(row["labels"])[1:]
    with torch.no_grad():
        logp = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1].log_softmax(-1)
    return logp[labels != -100].gather(-1, labels[labels != -100, None])[:, 0]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_documents_log_probs_are_those_it_has_alone(attention: str, policy: Path, tmp_path: Path) -> None:
    job = sft_job(batch_size=8, micro_batch_size=8, packing=True)
    job = job.model_copy(update={"model": job.model.model_copy(update={"attention": attention})})
    rows = uneven_rows(policy)
    trainer = build_trainer(job, policy, load_tokenizer(policy), rows, tmp_path)
    inputs = pack_inputs(trainer)
    assert inputs["input_ids"].shape == (1, sum(len(row["input_ids"]) for row in rows)), "nothing is padded"
    trainer.model.eval()
    with torch.no_grad():
        ours = trainer.model(**inputs, fused_lm_head=True)
    plain = load_policy(policy, job.model).eval()
    (members,) = balanced([len(row["input_ids"]) for row in rows], 1)
    theirs = torch.cat([reference_logps(plain, rows[i]) for i in members])
    torch.testing.assert_close(ours.log_probs[ours.label_mask], theirs, atol=1e-5, rtol=1e-5)


def test_a_changed_document_changes_no_other(policy: Path, tmp_path: Path) -> None:
    """Replacing the tokens of a pack's first row leaves the log-probs of the others the same to the bit."""
    job = sft_job(batch_size=8, micro_batch_size=8, packing=True)
    trainer = build_trainer(job, policy, load_tokenizer(policy), uneven_rows(policy), tmp_path)
    trainer.model.eval()
    inputs = pack_inputs(trainer)
    first = trainer.train_dataset[0]["seq_lengths"][0]
    changed = inputs | {"input_ids": inputs["input_ids"].clone()}
    changed["input_ids"][0, :first] = changed["input_ids"][0, :first].flip(0)
    with torch.no_grad():
        before, after = (trainer.model(**i, fused_lm_head=True).log_probs for i in (inputs, changed))
    assert torch.equal(before[0, first:], after[0, first:])
    assert not torch.equal(before[0, :first], after[0, :first])


def gradients(policy: Path, work: Path, packing: bool) -> tuple[dict[str, torch.Tensor], float]:
    """Gradient and loss of the first optimizer step: eight rows in two forwards."""
    job = sft_job(batch_size=8, micro_batch_size=4, packing=packing)
    trainer = build_trainer(job, policy, load_tokenizer(policy), uneven_rows(policy), work)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 2
    loader = trainer.get_train_dataloader()
    batches, tokens = trainer.get_batch_samples(iter(loader), 2, torch.device("cpu"))
    losses = [trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=tokens) for batch in batches]
    for loss in losses:
        loss.backward()
    return {name: p.grad for name, p in trainer.model.named_parameters()}, float(sum(losses))


def test_a_step_has_the_gradient_it_has_without_packing(policy: Path, tmp_path: Path) -> None:
    (ours, loss), (theirs, expected) = (gradients(policy, tmp_path / str(p), p) for p in (True, False))
    assert loss == pytest.approx(expected, abs=1e-5)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-6, rtol=1e-4, msg=name)
    assert sum(float(g.abs().sum()) for g in theirs.values()) > 0


def test_a_packed_run_ends_near_a_padded_one(policy: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write_examples(data / "sft.parquet", [replace(example(i), context="apples " * WORDS[i]) for i in range(8)])
    rows = {}
    for packing in (False, True):
        job = sft_job(epochs=3.0, batch_size=4, packing=packing)
        run(job, {"model": policy, "data": data}, tmp_path / str(packing))
        rows[packing] = lines(tmp_path / str(packing) / "output" / "metrics.jsonl")
    assert len(rows[True]) == 6
    assert rows[True][-1]["loss"] < rows[True][0]["loss"] - 0.3
    assert [r["loss"] for r in rows[True]] == pytest.approx([r["loss"] for r in rows[False]], abs=1e-3)
    ours, theirs, start = (
        load_file(folder / "model.safetensors")
        for folder in (tmp_path / "True/output", tmp_path / "False/output", policy)
    )
    moved = max(float((ours[name] - start[name]).abs().max()) for name in ours)
    apart = torch.cat([(ours[name] - theirs[name]).flatten() for name in ours])
    assert float(apart.square().mean().sqrt()) < 0.01 * moved


def test_the_share_of_data_among_computed_tokens_by_hand() -> None:
    """Padded, with two rows per forward: 2 x 8 and 2 x 4 tokens computed for 10 and 5 tokens of data."""
    rows = [{"input_ids": [1] * n, "labels": [1] * n} for n in (2, 8, 4, 1)]
    assert data_share(rows, SFTSettings(batch_size=4, micro_batch_size=2)) == 15 / 24
    packing = SFTSettings(batch_size=4, micro_batch_size=2, packing=True)
    assert data_share(rows, packing) == 1.0
    assert [len(pack["input_ids"]) for pack in packed(rows, packing)] == [8, 7]


def test_packing_one_row_a_forward_is_refused() -> None:
    with pytest.raises(ValueError, match=r"micro_batch_size=1 leaves one"):
        SFTSettings(packing=True)
