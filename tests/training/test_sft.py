"""SFT: loss only on the solution, no silently dropped rows, and an order that can be resumed."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from training_jobs import example, lines, sft_job

from qwenlong_core.data.prompts import encode, render_prompt
from qwenlong_core.data.rows import write_examples
from qwenlong_core.models import load_policy, load_tokenizer
from qwenlong_core.training.sft import accumulation, run, solution_row, tokenized, training_order


def test_labels_cover_solution_and_end_only(policy: Path) -> None:
    tokenizer = load_tokenizer(policy)
    row = solution_row(tokenizer, example(4))
    prompt = encode(tokenizer, render_prompt(tokenizer, example(4)))
    assert row["input_ids"][: len(prompt)] == prompt
    assert row["labels"][: len(prompt)] == [-100] * len(prompt)
    assert row["labels"][len(prompt) :] == row["input_ids"][len(prompt) :]
    assert row["labels"][-1] == tokenizer.eos_token_id
    assert tokenizer.decode(row["labels"][len(prompt) : -1]) == "Therefore, the answer is 7."


def test_a_thought_that_the_template_opens_is_not_opened_twice(policy: Path) -> None:
    tokenizer = load_tokenizer(policy)
    tokenizer.chat_template = "{{ messages[0]['content'] }}<think>\n"
    row = solution_row(tokenizer, replace(example(0), solution="<think>\nsum</think>\n\n3"))
    assert tokenizer.decode(row["input_ids"]).count("<think>") == 1


def test_rows_without_a_solution_are_refused_by_name(policy: Path) -> None:
    with pytest.raises(ValueError, match="'p1-3' has no solution"):
        solution_row(load_tokenizer(policy), replace(example(3), solution=None))


def test_long_rows_are_dropped_and_counted(policy: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = load_tokenizer(policy)
    long = replace(example(1), context="word " * 500)
    with caplog.at_level(logging.INFO):
        rows = tokenized(tokenizer, [example(0), long, example(2)], 256)
    assert len(rows) == 2
    assert "dropped for over 256 tokens: 1" in caplog.text
    with pytest.raises(ValueError, match=r"no SFT row fits sft.max_tokens=256 \(1 rows given\)"):
        tokenized(tokenizer, [long], 256)


@given(rows=st.integers(1, 50), epochs=st.floats(0.1, 4), batch=st.integers(1, 16), seed=st.integers(0, 3))
def test_the_order_is_whole_batches_of_whole_shuffles(rows: int, epochs: float, batch: int, seed: int) -> None:
    order = training_order(rows, epochs, batch, seed)
    assert len(order) % batch == 0
    assert len(order) == max(1, round(epochs * rows / batch)) * batch
    for start in range(0, len(order) - rows + 1, rows):
        assert sorted(order[start : start + rows]) == list(range(rows))
    assert order == training_order(rows, epochs, batch, seed)


def test_accumulation_and_its_refusal() -> None:
    assert accumulation(sft_job(batch_size=128, micro_batch_size=2).sft, 8) == 8
    with pytest.raises(ValueError, match="multiple of 4, such as 4"):
        accumulation(sft_job(batch_size=6, micro_batch_size=2).sft, 2)


def reference_first_loss(policy: Path, rows: list[dict[str, list[int]]]) -> float:
    """Mean negative log-likelihood over the solution tokens of a batch, row by row."""
    model = load_policy(policy, sft_job().model)
    total, count = 0.0, 0
    for row in rows:
        labels = torch.tensor(row["labels"])[1:]
        with torch.no_grad():
            logp = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1].log_softmax(-1)
        known = labels != -100
        total -= float(logp[known].gather(-1, labels[known, None]).sum())
        count += int(known.sum())
    return total / count


def test_a_run_learns_and_its_first_loss_is_the_reference(policy: Path, data: Path, tmp_path: Path) -> None:
    job = sft_job(epochs=6.0)
    run(job, {"model": policy, "data": data}, tmp_path)
    log = lines(tmp_path / "output" / "metrics.jsonl")
    tokenizer = load_tokenizer(policy)
    rows = tokenized(tokenizer, [example(i) for i in range(10)], 256)
    first = [rows[i] for i in training_order(10, 6.0, 4, job.seed)[:4]]
    assert log[0]["loss"] == pytest.approx(reference_first_loss(policy, first), abs=1e-4)
    assert [row["step"] for row in log] == list(range(1, 16))
    assert log[0]["tokens_per_second"] * log[0]["seconds"] == pytest.approx(
        sum(len(r["input_ids"]) for r in first), rel=0.05
    )
    assert log[-1]["loss"] < log[0]["loss"] - 0.5
    load_policy(tmp_path / "output", job.model)


def test_the_last_step_has_a_checkpoint_only_if_save_steps_divides_it(policy: Path, data: Path, tmp_path: Path) -> None:
    """The policy follows the last step at once."""
    run(sft_job(epochs=1.2, save_steps=2), {"model": policy, "data": data}, tmp_path)
    assert [row["step"] for row in lines(tmp_path / "output" / "metrics.jsonl")] == [1, 2, 3]
    assert [folder.name for folder in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-2"]
    saved, output = (load_file(path / "model.safetensors") for path in (policy, tmp_path / "output"))
    assert any(not torch.equal(output[name], value) for name, value in saved.items())


def test_saved_weights_have_the_dtype_of_the_settings(policy: Path, tmp_path: Path) -> None:
    """Trained in float32 with bfloat16 arithmetic, saved in bfloat16."""
    data = tmp_path / "data"
    data.mkdir()
    write_examples(data / "sft.parquet", [example(i) for i in range(2)])
    job = sft_job(epochs=1.0, batch_size=2).model_copy(
        update={"model": sft_job().model.model_copy(update={"dtype": "bfloat16"})}
    )
    run(job, {"model": policy, "data": data}, tmp_path / "work")
    assert load_policy(tmp_path / "work" / "output", job.model).dtype == torch.bfloat16
    from safetensors.torch import load_file

    assert {t.dtype for t in load_file(tmp_path / "work/output/model.safetensors").values()} == {torch.bfloat16}
