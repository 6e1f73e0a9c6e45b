"""SFT on several processes, each with rows of its own or a share of a row's tokens: the update of one process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from fsdp_on_cpu import run_processes
from safetensors.torch import load_file
from sft_spread import job_of, loss_and_gradient, ways
from test_resume import SFT_STAGE, Stage
from torch.utils.data import BatchSampler, SequentialSampler
from training_jobs import example, lines, sft_job

from qwenlong_core.data.rows import write_examples
from qwenlong_core.settings.running import LaunchSettings
from qwenlong_core.training.sft import dealt


@pytest.mark.parametrize(("processes", "copies"), [(2, 2), (4, 2), (8, 8), (8, 2)])
@pytest.mark.parametrize("at_once", [1, 2])
def test_neighbours_get_the_rows_that_fewer_processes_would(processes: int, copies: int, at_once: int) -> None:
    """By accelerate's own sampler: process p reads what process p // copies reads without sequence parallelism."""

    def read(rows: list[int], of: int) -> list[list[list[int]]]:
        sampler = BatchSampler(SequentialSampler(rows), at_once, drop_last=False)
        shards = [BatchSamplerShard(sampler, of, process) for process in range(of)]
        return [[[rows[i] for i in batch] for batch in shard] for shard in shards]

    expected = read(list(range(32)), processes // copies)
    assert read(dealt(32, at_once, copies), processes) == [expected[p // copies] for p in range(processes)]


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "span"), [(2, 2), (4, 2), (4, 4)])
def test_a_span_has_the_loss_and_gradient_of_one_process(
    processes: int, span: int, policy: Path, tmp_path: Path
) -> None:
    """Both losses, packed with checkpointing and padded without, under DDP and FSDP2; 4 ranks of a span are more than
    the model's key heads."""
    run_processes("sft_spread.py", span, policy, tmp_path, processes=processes, sharded=False)
    for loss, packing in ways():
        expected = loss_and_gradient("alone", job_of(loss, packing), policy, tmp_path / "one")
        assert float(expected["loss"]) > 1
        for how in ("replicated", "sharded"):
            found = load_file(tmp_path / f"{how}-{loss}-{packing}.safetensors")
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                largest = float(value.abs().max())
                assert largest > 0
                where = f"{how}, {loss}, {name}"
                torch.testing.assert_close(found[name], value, atol=1e-6 * largest, rtol=0, msg=where)


@pytest.mark.slow
def test_sft_on_two_processes_takes_the_steps_of_one(policy: Path, tmp_path: Path) -> None:
    """Solutions of very different lengths: the loss is a mean over a step's tokens, wherever its rows lie."""
    solved = [replace(example(i), solution=f"Add. {'So. ' * (1 + i * i)}The answer is {i + 3}.") for i in range(8)]
    write_examples(tmp_path / "sft.parquet", solved)

    def steps(processes: int, micro: int, packing: bool, span: int) -> list[dict[str, float]]:
        job = sft_job(epochs=2.0, micro_batch_size=micro, packing=packing)
        launch = LaunchSettings(num_processes=processes, cpu_threads=1, sequence_parallel=span)
        job = job.model_copy(update={"launch": launch})
        work = tmp_path / f"{processes}-{micro}-{packing}-{span}"
        Stage(SFT_STAGE, job, {"model": policy, "data": tmp_path}, work, processes).finish()
        return lines(work / "output/metrics.jsonl")

    def only(rows: list[dict[str, float]], *names: str) -> list[list[float]]:
        return [[row[name] for name in names] for row in rows]

    alone = only(steps(1, 4, False, 1), "loss", "grad_norm")
    assert len(alone) == 4
    for spread in [(2, 1, False, 1), (2, 2, True, 1), (2, 2, True, 2)]:
        for ours, theirs in zip(only(steps(*spread), "loss", "grad_norm"), alone, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-3), spread
    # Entropy and accuracy are means over forwards, so the forwards must be the same.
    fields = ("loss", "grad_norm", "entropy", "mean_token_accuracy")
    cut, whole = only(steps(2, 1, False, 2), *fields), only(steps(1, 1, False, 1), *fields)
    for ours, theirs in zip(cut, whole, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
