"""The step on this machine's CPU: rehearsed, and set up to run for real, so that one can be held against the other."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from qwenlong_core.jobs import GRPOJob
from qwenlong_core.rehearsal.device import FakeTensorMode, fake_tensors, pretend_ranks, shard_on_cpu
from qwenlong_core.rehearsal.known import Known
from qwenlong_core.rehearsal.ledger import Ledger
from qwenlong_core.rehearsal.stage import launch_variables
from qwenlong_core.rehearsal.step import build, shaped_model
from qwenlong_core.rehearsal.watch import watch, watched_sharding
from qwenlong_core.training.runtime import set_up_process, training_weights

MAPPED = 65_536
"""Bytes from which glibc maps a block by itself, if it is started with this ``mmap_threshold``."""
_PAGE, _ALIGNED = 4096, 64


def in_pages(size: int) -> int:
    """Bytes of a process that a tensor takes: whole pages if glibc maps it, and it begins behind glibc's header."""
    return size if size < MAPPED else -(-(size + _ALIGNED) // _PAGE) * _PAGE


def set_up_on_cpu(job: GRPOJob) -> None:
    """Set the process up as a stage does; if the job names an accelerate file, it shards weights as GPUs would."""
    set_up_process(job.launch)
    variables = launch_variables(job.launch)
    if variables:  # only now: a stage is refused if it is to shard on a CPU
        os.environ.update(variables, ACCELERATE_MIXED_PRECISION="bf16" if job.model.dtype == "bfloat16" else "no")
        shard_on_cpu()


def on_cpu(job: GRPOJob, shape: dict[str, Any], prompt_tokens: int, completion_tokens: int, work: Path) -> Ledger:
    """The step of one process on this machine's CPU, on fake tensors, to be compared with the real one.

    Of several processes it is the last. They have to be sharded: DDP compares weights, of which fakes have none.

    Returns:
        The ledger after the step; its moments begin with the batch.
    """
    fake_tensors()
    if job.launch.num_processes > 1:
        pretend_ranks(job.launch.num_processes, {})
    ledger = Ledger("cpu", taken=in_pages)
    with FakeTensorMode(allow_non_fake_inputs=True), Known(), ledger, watched_sharding(ledger):
        set_up_on_cpu(job)
        model = shaped_model(shape, shape["num_hidden_layers"], training_weights(job.model, job.lora), "cpu")
        trainer = build(job, model, prompt_tokens, completion_tokens, work)
        watch(trainer, ledger)
        trainer.train()
    return ledger
