"""One rehearsed run: the pretended GPU, the job, and the ledger around its step."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from qwenlong_core.jobs import GRPOJob, SFTJob
from qwenlong_core.rehearsal.device import FakeTensorMode, environment_of, pretend_cuda, pretend_ranks
from qwenlong_core.rehearsal.known import Known
from qwenlong_core.rehearsal.ledger import Ledger
from qwenlong_core.rehearsal.report import Run
from qwenlong_core.rehearsal.step import (
    FORWARDS,
    UPDATES,
    build,
    build_sft,
    shaped_model,
    short_job,
    short_sft_job,
)
from qwenlong_core.rehearsal.watch import BACKWARD, OLD_PASS, watch, watched_sharding
from qwenlong_core.settings.running import LaunchSettings
from qwenlong_core.shipped import own_or_shipped
from qwenlong_core.training.runtime import set_up_process, training_weights

_LAST = (OLD_PASS, f"update {UPDATES}, forward {FORWARDS}: ", f"update {UPDATES}: ")
"""The parts of the step that are reported. Earlier ones are the same with less: no optimizer's state, no gradients."""


def launch_variables(launch: LaunchSettings) -> dict[str, str]:
    """What ``accelerate launch`` would set for the processes of this job."""
    if launch.accelerate_config is None:
        return {}
    config = str(own_or_shipped(launch.accelerate_config))
    found = {k: v for k, v in environment_of(config).items() if k.startswith(("FSDP_", "ACCELERATE_"))}
    # Weights are undefined, so there is nothing to broadcast; and fakes cannot move to torch's meta device.
    return found | {"FSDP_CPU_RAM_EFFICIENT_LOADING": "false"}


def rehearsed(asked: dict[str, Any], work: Path) -> list[Run]:
    """Run one step of the job in ``asked`` at each of its depths."""
    job: GRPOJob | SFTJob
    if "sft" in asked["job"]:
        job = short_sft_job(SFTJob.model_validate(asked["job"]))
    else:
        job = short_job(GRPOJob.model_validate(asked["job"]))
    pretend_cuda(job.launch.num_processes // job.launch.num_machines)
    return [_at_depth(job, layers, asked, work) for layers in asked["layers"]]


def _at_depth(job: GRPOJob | SFTJob, layers: int, asked: dict[str, Any], work: Path) -> Run:
    pretend_ranks(job.launch.num_processes, launch_variables(job.launch))
    ledger = Ledger()
    with FakeTensorMode(allow_non_fake_inputs=True), Known(), ledger, watched_sharding(ledger):
        set_up_process(job.launch)
        model = shaped_model(asked["shape"], layers, training_weights(job.model, job.lora), "cuda")
        lengths = asked["prompt_tokens"], asked["completion_tokens"]
        if isinstance(job, SFTJob):
            trainer = build_sft(job, model, *lengths, work)
        else:
            trainer = build(job, model, *lengths, work)
        watch(trainer, ledger)
        trainer.train()
    return Run(
        layers=layers,
        moments=tuple(moment for label, moment in ledger.moments.items() if label.startswith(_LAST)),
        flops=_by_part(ledger.flops),
        sent=_by_part(ledger.sent),
        forwards=UPDATES * FORWARDS,
    )


def _by_part(found: dict[str, Counter[str]]) -> dict[str, int]:
    """What one forward's rows took: the step's last forward and backward, and their share of the old pass."""
    parts = Counter[str]()
    for label, counts in found.items():
        for kind, count in counts.items():
            if label == OLD_PASS:
                parts[f"{kind}, old pass"] += count // (UPDATES * FORWARDS)
            elif label.startswith(_LAST):
                parts[f"{kind}, {'backward' if BACKWARD in label else 'forward'}"] += count
    return dict(parts)
