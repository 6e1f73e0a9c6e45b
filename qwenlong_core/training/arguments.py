"""A GRPO job as TRL's arguments: how a batch is divided among processes and forwards, and the rest by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from trl import GRPOConfig
from trl.generation import vllm_generation

from qwenlong_core.jobs import GRPOJob
from qwenlong_core.settings.training import VLLMSettings
from qwenlong_core.training.runtime import trainer_arguments
from qwenlong_core.training.vllm_groups import group_at_a_time


@dataclass(frozen=True, slots=True)
class BatchLayout:
    """How a process runs its share of a rollout batch. An update is one optimizer step."""

    forwards_per_update: int
    forwards_per_batch: int
    updates_per_batch: int


def batch_layout(job: GRPOJob, processes: int) -> BatchLayout:
    """Divide the batch among processes and forwards; a group stays whole on the processes that hold it.

    Raises:
        ValueError: the settings would split a group; the message has numbers that fit.
    """
    grpo = job.grpo
    holders = processes // job.launch.sequence_parallel
    per_forward = grpo.micro_batch_size * holders
    if grpo.mini_batch_size % per_forward:
        fit = max(per_forward, grpo.mini_batch_size // per_forward * per_forward)
        raise ValueError(
            f"grpo.mini_batch_size={grpo.mini_batch_size} prompts cannot be spread over {processes} process(es) with "
            f"grpo.micro_batch_size={grpo.micro_batch_size} and launch.sequence_parallel="
            f"{job.launch.sequence_parallel}: it must be a multiple of {per_forward}, such as {fit}, since a group is "
            "not split; or set micro_batch_size=1 and a number of processes that divides it"
        )
    return BatchLayout(
        forwards_per_update=grpo.mini_batch_size // per_forward,
        forwards_per_batch=grpo.batch_size // per_forward,
        updates_per_batch=grpo.batch_size // grpo.mini_batch_size,
    )


def grpo_config(job: GRPOJob, layout: BatchLayout, longest_prompt: int, work: Path) -> GRPOConfig:
    """The job as TRL's arguments.

    Args:
        job: The phase's job.
        layout: Of its batches.
        longest_prompt: Tokens of the phase's longest prompt, for vLLM's limit.
        work: The stage's work folder.
    """
    grpo = job.grpo
    return GRPOConfig(
        **trainer_arguments(job.model, job.launch, job.seed, work / "checkpoints"),
        per_device_train_batch_size=grpo.micro_batch_size * grpo.group_size,
        # TRL scores this many rows at once while the model is in eval mode; a group must stay whole.
        per_device_eval_batch_size=grpo.micro_batch_size * grpo.group_size,
        gradient_accumulation_steps=layout.forwards_per_update,
        steps_per_generation=layout.forwards_per_batch,
        max_steps=job.phase.steps * layout.updates_per_batch,
        num_generations=grpo.group_size,
        max_completion_length=job.phase.max_completion_tokens,
        temperature=grpo.temperature,
        top_p=grpo.top_p,
        top_k=0,
        generation_kwargs=vllm_sampling(job) or None,
        learning_rate=grpo.learning_rate,
        lr_scheduler_type="constant",
        max_grad_norm=grpo.max_grad_norm,
        epsilon=grpo.clip_low,
        epsilon_high=grpo.clip_high,
        beta=grpo.kl_coefficient,
        loss_type="dapo",
        # TRL knows no tasks: rows.py has the divisor of each row.
        scale_rewards="none" if grpo.scale_rewards == "task" else grpo.scale_rewards,
        use_vllm=grpo.engine.startswith("vllm"),
        vllm_mode=grpo.engine.removeprefix("vllm-") if grpo.engine.startswith("vllm") else "colocate",
        vllm_max_model_length=longest_prompt + job.phase.max_completion_tokens,
        # A sequence's ratio is the product of thousands of token ratios and would mask most long rows.
        vllm_importance_sampling_mode="token_truncate",
        **vllm_arguments(grpo.vllm or VLLMSettings()),
    )


def vllm_sampling(job: GRPOJob) -> dict[str, Any]:
    """Sampling parameters that TRL would not pass to vLLM by itself."""
    grpo = job.grpo
    parameters: dict[str, Any] = {}
    if grpo.stop and grpo.engine.startswith("vllm"):
        parameters["stop"] = list(grpo.stop)
    # n=G sends a prompt once for its G completions. TRL does that for a server only; and with tensor
    # parallelism it hands results back to the processes by requests, so there G requests are sent.
    if grpo.engine == "vllm-colocate" and (grpo.vllm or VLLMSettings()).tensor_parallel == 1:
        parameters["n"] = grpo.group_size
    return parameters


def vllm_arguments(settings: VLLMSettings) -> dict[str, Any]:
    """The settings under TRL's names."""
    return {
        "vllm_tensor_parallel_size": settings.tensor_parallel,
        "vllm_gpu_memory_utilization": settings.memory_share,
        "vllm_enable_sleep_mode": settings.sleep,
        "vllm_server_base_url": settings.server_url,
    }


def vllm_options(job: GRPOJob, policy: Any) -> dict[str, Any]:
    """Arguments of vLLM that TRL 1.16 has no argument for, ``grpo.vllm.options`` among them.

    By itself vLLM computes a float32 policy in bfloat16: completions would come from another policy than the one that
    is trained and evaluated. And on some GPUs it keeps experts in a layout of FlashInfer's, into which TRL would write
    theirs as they are; Triton's kernels take them so.
    """
    experts = any(weight.dim() == 3 for weight in policy.parameters())
    layout = {"moe_backend": "triton"} if experts and torch.cuda.is_available() else {}
    return {"dtype": job.model.dtype, **layout, **(job.grpo.vllm.options if job.grpo.vllm else {})}


@contextmanager
def vllm_as_trained(job: GRPOJob, policy: Any) -> Iterator[None]:
    """The vLLM that a trainer made herein starts has :func:`vllm_options`, and takes one group at a time where set."""
    if job.grpo.engine != "vllm-colocate":
        yield
        return
    plain = vllm_generation.LLM
    by_groups = job.grpo.vllm is not None and job.grpo.vllm.group_at_a_time
    made: Any = group_at_a_time(plain) if by_groups else plain
    vllm_generation.LLM = partial(made, **vllm_options(job, policy))
    try:
        yield
    finally:
        vllm_generation.LLM = plain
