"""A GRPO job as TRL's arguments: how a batch is cut over processes and forwards, and the rest by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl import GRPOConfig

from qwenlong_core.jobs import GRPOJob
from qwenlong_core.settings.training import VLLMSettings
from qwenlong_core.training.runtime import trainer_arguments


@dataclass(frozen=True, slots=True)
class Layout:
    """How a rollout batch is cut. A group lives on one process, so all counts are in groups."""

    forwards_per_update: int
    forwards_per_batch: int
    updates_per_batch: int


def layout(job: GRPOJob, processes: int) -> Layout:
    """Cut the batch over processes and forwards.

    Raises:
        ValueError: the settings would split a group or a batch; the message has numbers that fit.
    """
    at_once = job.micro_batch_size * processes
    if job.mini_batch_size % at_once:
        fit = max(at_once, job.mini_batch_size // at_once * at_once)
        raise ValueError(
            f"grpo.mini_batch_size={job.mini_batch_size} prompts cannot be spread over {processes} process(es) with "
            f"grpo.micro_batch_size={job.micro_batch_size}: a group lives on one process, so it must be a multiple of "
            f"{at_once}, such as {fit}; or set micro_batch_size=1 and a number of processes that divides it"
        )
    if job.batch_size % job.mini_batch_size:
        fit = max(1, job.batch_size // job.mini_batch_size) * job.mini_batch_size
        raise ValueError(
            f"grpo.batch_size={job.batch_size} is not a multiple of mini_batch_size={job.mini_batch_size}: use {fit}"
        )
    return Layout(
        forwards_per_update=job.mini_batch_size // at_once,
        forwards_per_batch=job.batch_size // at_once,
        updates_per_batch=job.batch_size // job.mini_batch_size,
    )


def grpo_config(job: GRPOJob, cut: Layout, longest_prompt: int, work: Path) -> GRPOConfig:
    """The job as TRL's arguments."""
    return GRPOConfig(
        **trainer_arguments(job.model, job.launch, job.seed, work / "checkpoints"),
        per_device_train_batch_size=job.micro_batch_size * job.group_size,
        gradient_accumulation_steps=cut.forwards_per_update,
        steps_per_generation=cut.forwards_per_batch,
        max_steps=job.phase.steps * cut.updates_per_batch,
        num_generations=job.group_size,
        max_completion_length=job.phase.max_completion_tokens,
        temperature=job.temperature,
        top_p=job.top_p,
        top_k=0,
        generation_kwargs=vllm_sampling(job) or None,
        learning_rate=job.learning_rate,
        lr_scheduler_type="constant",
        max_grad_norm=job.max_grad_norm,
        epsilon=job.clip_low,
        epsilon_high=job.clip_high,
        beta=job.kl_coefficient,
        loss_type="dapo",
        scale_rewards=job.scale_rewards,
        use_vllm=job.engine.startswith("vllm"),
        vllm_mode=job.engine.removeprefix("vllm-") if job.engine.startswith("vllm") else "colocate",
        vllm_max_model_length=longest_prompt + job.phase.max_completion_tokens,
        # A ratio over a whole sequence is the product of thousands of token ratios and masks most long rows.
        vllm_importance_sampling_mode="token_truncate",
        **vllm_arguments(job.vllm or VLLMSettings()),
    )


def vllm_sampling(job: GRPOJob) -> dict[str, Any]:
    """What TRL does not tell vLLM by itself: stop strings and, where it is colocated, that a prompt is sent once for
    its G completions (to a server TRL does so). Over several GPUs TRL shares results out by prompts, so G are sent."""
    told: dict[str, Any] = {}
    if job.stop and job.engine.startswith("vllm"):
        told["stop"] = list(job.stop)
    if job.engine == "vllm-colocate" and (job.vllm or VLLMSettings()).tensor_parallel == 1:
        told["n"] = job.group_size
    return told


def vllm_arguments(settings: VLLMSettings) -> dict[str, Any]:
    """The settings under TRL's names."""
    return {
        "vllm_tensor_parallel_size": settings.tensor_parallel,
        "vllm_gpu_memory_utilization": settings.memory_share,
        "vllm_enable_sleep_mode": settings.sleep,
        "vllm_server_base_url": settings.server_url,
    }
