"""Loss and gradient of an optimizer step of SFT on as many processes as run, every way in one launch.

    python -m torch.distributed.run --nproc-per-node=2 tests/training/sft_spread.py SPAN POLICY WORK

``SPAN`` processes compute a row together. Writes ``WORK/HOW-LOSS-LAYOUT.safetensors`` for each of :func:`ways`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors.torch import save_file
from spread_batch import spread_over
from training_jobs import example, sft_job

from qwenlong_core.jobs import SFTJob
from qwenlong_core.models import load_tokenizer
from qwenlong_core.training.runtime import enable_checkpointing
from qwenlong_core.training.sft import build_trainer, tokenized

ROWS = 8
Row = dict[str, list[int]]


def uneven_rows(policy: Path) -> list[Row]:
    """Documents and solutions of very different lengths."""
    examples = [
        replace(example(i), context="apples " * (7 * i % 40), solution=f"{'So. ' * (i * i)}The answer is {i + 3}.")
        for i in range(ROWS)
    ]
    return tokenized(load_tokenizer(policy), examples, 400)


def ways() -> Iterator[tuple[str, bool]]:
    """The loss, and whether rows are packed."""
    yield from product(("rows", "tokens"), (False, True))


def job_of(loss: str, packing: bool, processes: int = 1, span: int = 1) -> SFTJob:
    """Two rows a forward, packed or padded, and all eight in one optimizer step."""
    job = sft_job(loss=loss, packing=packing, batch_size=ROWS, micro_batch_size=2, max_tokens=400)
    launch = {"num_processes": processes, "cpu_threads": 1, "sequence_parallel": span}
    return job.model_copy(update={"launch": type(job.launch).model_validate(launch)})


def loss_and_gradient(how: str, job: SFTJob, policy: Path, work: Path) -> dict[str, torch.Tensor]:
    """``loss`` and the whole gradient of every weight of the first optimizer step, its rows dealt by accelerate."""
    processes = job.launch.num_processes
    trainer = build_trainer(job, policy, load_tokenizer(policy), uneven_rows(policy), work)
    trainer.model.train()
    if job.sft.packing:  # with and without, over the ways
        enable_checkpointing(trainer.model, {"use_reentrant": False})
    steps = trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    batches, tokens = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), steps, torch.device("cpu"))
    assert len(batches) == steps == ROWS // 2 // (processes // job.launch.sequence_parallel)
    model, total = spread_over(trainer.model, how, processes), torch.zeros(())
    for batch in batches:
        loss = trainer.compute_loss(model, dict(batch), num_items_in_batch=tokens)
        loss.backward()
        total += loss.detach()
    gradients = {name: p.grad for name, p in trainer.model.named_parameters()}
    whole = {name: g.full_tensor() if hasattr(g, "full_tensor") else g for name, g in gradients.items()}
    return whole | {"loss": trainer.accelerator.reduce(total, reduction="mean")}


def main(span: int, policy: Path, work: Path) -> None:
    state = PartialState(cpu=True)
    for how, (loss, packing) in product(("replicated", "sharded"), ways()):
        job = job_of(loss, packing, state.num_processes, span)
        found = loss_and_gradient(how, job, policy, work / "trainer")
        if state.is_main_process:
            save_file({n: g.contiguous() for n, g in found.items()}, work / f"{how}-{loss}-{packing}.safetensors")
    state.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), *map(Path, sys.argv[2:]))
