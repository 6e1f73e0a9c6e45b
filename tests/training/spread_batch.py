"""Loss and gradient of one rollout batch of eight groups on as many processes as run, replicated or sharded.

    python -m torch.distributed.run --nproc-per-node=2 tests/training/spread_batch.py HOW SPAN POLICY DATA WORK

``HOW`` is ``replicated`` (DDP) or ``sharded`` (FSDP2, layer by layer as accelerate wraps it). ``SPAN`` processes
compute a row together, and a forward has two groups.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from parity_stage import score_parity
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from training_jobs import grpo_job
from trl.trainer.utils import split_tensor_dict

from qwenlong_core.records import Completion, Example, Score
from qwenlong_core.training.grpo import build_trainer

GROUPS = 8
"""Of the batch."""


async def score(examples: Sequence[Example], completions: Sequence[Completion]) -> list[Score]:
    """By parity; what is logical is never right, so that its groups leave empty slots."""
    scores = await score_parity(examples, completions)
    return [Score(value=0.0, rule=0.0) if e.domain == "logical" else s for e, s in zip(examples, scores)]


def spread_over(model: Any, how: str, processes: int) -> Any:
    """The model as the processes hold it; on one process it stays as it is."""
    if processes == 1:
        return model
    if how == "replicated":
        return DistributedDataParallel(model)
    mesh = init_device_mesh("cpu", (processes,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def loss_and_gradient(
    how: str, span: int, policy: Path, data: Path, work: Path, per_forward: int = 2
) -> dict[str, torch.Tensor]:
    """``loss``, ``kept`` and the gradient of every weight, whole, over all processes; and the ``tokens`` that they run.

    The weights have moved since the phase began, so that the KL term keeps the loss from being 0 by itself.
    """
    state = PartialState(cpu=True)
    job = grpo_job(
        launch={"num_processes": state.num_processes, "cpu_threads": 1, "sequence_parallel": span},
        batch_size=GROUPS,
        mini_batch_size=GROUPS,
        micro_batch_size=per_forward,
        dynamic_sampling={"max_rounds": 1},
        kl_coefficient=0.5,
        seed=1,
    )
    inputs = {"model": policy, "data": data}
    trainer = build_trainer(
        job, inputs=inputs, work=work, scorer=score, processes=state.num_processes, rank=state.process_index
    )
    trainer.model.train()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
    batch = trainer.next_batch()
    forwards = trainer.current_gradient_accumulation_steps = trainer.args.steps_per_generation
    model, total, run = spread_over(trainer.model, how, state.num_processes), torch.zeros(()), []

    def count(module: Any, given: Any, output: torch.Tensor) -> None:
        if torch.is_grad_enabled():  # not in the check of the first group
            run.append(given[0].numel())

    trainer.model.model.embed_tokens.register_forward_hook(count)
    for part in split_tensor_dict(batch, forwards):
        loss = trainer.compute_loss(model, part)
        loss.backward()
        total += loss.detach()
    gradients = {name: p.grad for name, p in trainer.model.named_parameters()}
    whole = {name: g.full_tensor() if hasattr(g, "full_tensor") else g for name, g in gradients.items()}
    mean = trainer.accelerator.reduce(total, reduction="mean")
    tokens = trainer.accelerator.reduce(torch.tensor(sum(run)), reduction="sum")
    return whole | {"loss": mean, "kept": torch.tensor(len(trainer.batch.drawn.kept)), "tokens": tokens}


if __name__ == "__main__":
    how, span, policy, data, work = sys.argv[1:]
    found = loss_and_gradient(how, int(span), Path(policy), Path(data), Path(work))
    if PartialState().is_main_process:
        save_file(found, Path(work) / "gradient.safetensors")
    PartialState().destroy_process_group()
