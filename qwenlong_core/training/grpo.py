"""The GRPO stage: trains a policy on the rows of one length bucket and on hard rows of earlier buckets.

Stage command::

    accelerate launch -m qwenlong_core.training.grpo --job job.json --input model=DIR --input data=DIR --work DIR

The output is the policy folder. It also holds ``metrics.jsonl`` (one line per step), ``samples.jsonl``
(the best and the worst completion of each group) and ``difficulty.json`` (for later phases to choose
rows by). This module puts the parts together; :mod:`trainer` shows what a step does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState

from qwenlong_core.data.prepared import TRAIN_ROWS
from qwenlong_core.data.rows import read_phase
from qwenlong_core.generation.engine import Engine, Sampling
from qwenlong_core.generation.transformers_engine import TransformersEngine
from qwenlong_core.generation.vllm_check import require_options, require_vllm
from qwenlong_core.jobs import GRPOJob
from qwenlong_core.models import attention_implementation, load_policy, load_tokenizer
from qwenlong_core.records import Completion, Example, Score
from qwenlong_core.rewards.bonus import with_bonus
from qwenlong_core.rewards.health import require_judge
from qwenlong_core.rewards.hybrid import score_completions
from qwenlong_core.rewards.judge import Judge
from qwenlong_core.rewards.length import LengthLimits
from qwenlong_core.settings.lora import require_lora_alone
from qwenlong_core.stage_main import OUTPUT, stage_main
from qwenlong_core.store.files import METRICS, write_json
from qwenlong_core.training import curriculum, grpo_metrics
from qwenlong_core.training.arguments import batch_layout, grpo_config, vllm_as_trained
from qwenlong_core.training.batches import Batches
from qwenlong_core.training.checkpoints import CarriedOptimizer, read_state
from qwenlong_core.training.dynamic_sampling import PromptStream, Stream
from qwenlong_core.training.logprobs.span_check import require_cuttable_policy
from qwenlong_core.training.lora import send_merged, start_of
from qwenlong_core.training.metrics import JsonLines, MetricsCallback
from qwenlong_core.training.output import CARRIED, DIFFICULTY, SAMPLES
from qwenlong_core.training.rollout import Prompts, Rollouts, Scorer
from qwenlong_core.training.runtime import (
    StepBoundary,
    leave_group,
    quiet,
    save_policy,
    set_up_process,
    training_weights,
)
from qwenlong_core.training.sharding import start_policy
from qwenlong_core.training.shards import write_optimizer
from qwenlong_core.training.taking_up import taken_up
from qwenlong_core.training.tasks import BalancedStream
from qwenlong_core.training.trainer import LongContextGRPOTrainer
from qwenlong_core.training.trainer_engine import TrainerEngine

logger = logging.getLogger(__name__)


def phase_examples(job: GRPOJob, data: Path, difficulties: curriculum.Difficulties) -> list[Example]:
    """The phase's own rows, then the hard rows of earlier phases.

    Raises:
        ValueError: the phase has fewer rows than ``batch_size``.
    """
    path = data / TRAIN_ROWS
    own = read_phase(path, job.index)
    earlier: list[Example] = []
    if difficulties and job.index > 1:
        earlier = [example for i in range(1, job.index) for example in read_phase(path, i)]
    limit = curriculum.retrospective_limit(len(own), job.grpo.curriculum.retrospective_share)
    hard = curriculum.choose_retrospective(
        earlier, difficulties, limit, job.grpo.group_size, job.seed, job.grpo.curriculum.retire_after_visits
    )
    logger.info("grpo-%d: %d rows of its own length, %d hard ones of earlier phases", job.index, len(own), len(hard))
    if len(own) + len(hard) < job.grpo.batch_size:
        raise ValueError(
            f"phase {job.index} has {len(own) + len(hard)} rows, fewer than grpo.batch_size={job.grpo.batch_size}: "
            "add rows of its length or lower batch_size"
        )
    return own + hard


def prompt_stream(job: GRPOJob, examples: Sequence[Example]) -> Stream:
    """The order in which the phase's rows are drawn.

    Raises:
        ValueError: ``balance_tasks`` is set, and a task has too few rows.
    """
    if job.grpo.balance_tasks:
        return BalancedStream(examples, job.grpo.task, job.grpo.batch_size, job.seed)
    return PromptStream(len(examples), job.seed)


def reward_scorer(job: GRPOJob, rank: int = 0) -> Scorer:
    """The phase's reward: ``max(rule, judge)`` plus its length penalty, and the bonus for evidence where it is set.

    Args:
        rank: Number of this process, which has its share of the judge's ``concurrency``.

    Raises:
        RuntimeError: the judge gives no verdicts, or too few right ones.
    """
    limits = LengthLimits(max_tokens=job.phase.max_completion_tokens, cache_tokens=job.phase.cache_tokens)
    judge = Judge(job.rewards.judge.share(rank, job.launch.num_processes)) if job.rewards.judge else None
    if judge is not None:
        asyncio.run(require_judge(judge))

    async def score(examples: Sequence[Example], completions: Sequence[Completion]) -> list[Score]:
        scores = await score_completions(examples, completions, job.rewards, limits, judge)
        bonus = job.rewards.evidence
        return with_bonus(examples, completions, scores, bonus, job.grpo.group_size) if bonus else scores

    return score


def build_trainer(
    job: GRPOJob, *, inputs: Mapping[str, Path], work: Path, scorer: Scorer, processes: int, rank: int
) -> LongContextGRPOTrainer:
    """The phase's trainer with its rows, engine and prompt stream.

    Args:
        job: The phase.
        inputs: Folders by name: ``model``, ``data`` and perhaps ``probe``.
        work: The stage's work folder.
        scorer: Scores completions.
        processes: How many processes train.
        rank: Number of this process.

    Raises:
        ValueError: settings or rows that cannot be trained on.
    """
    # Cheap checks first: a phase that cannot run is refused before any weights are loaded.
    require_lora_alone(job.lora, job.launch, job.grpo.optimizer_across_phases)
    require_vllm("grpo.engine", job.grpo.engine)
    require_options("grpo.engine", job.grpo.vllm.options if job.grpo.vllm else ())
    layout = batch_layout(job, processes)
    require_cuttable_policy(inputs["model"], job.model, job.launch.sequence_parallel)
    difficulties = curriculum.read_difficulties(inputs.get("probe", inputs["model"]))
    examples = phase_examples(job, inputs["data"], difficulties)
    stream = prompt_stream(job, examples)
    tokenizer = load_tokenizer(inputs["model"])
    model = start_policy(inputs["model"], training_weights(job.model, job.lora))
    prompts = Prompts(tokenizer, examples, job.phase, model.config.max_position_embeddings)

    def batches_of(trainer: LongContextGRPOTrainer) -> Batches:
        rollouts = Rollouts(
            prompts,
            rollout_engine(job, trainer),
            scorer,
            group_size=job.grpo.group_size,
            sampling=rollout_sampling(job),
            rank=rank,
            processes=processes,
            one_call=job.grpo.engine.startswith("vllm"),
            # While a judge answers, the processor is free: the next prompts are sampled in the meantime.
            prompts_a_call=job.grpo.micro_batch_size if job.rewards.judge else None,
        )
        copies = job.launch.sequence_parallel
        return Batches(job.grpo, rollouts, stream, difficulties, filler=tokenizer.eos_token_id, copies=copies)

    with vllm_as_trained(job, model):
        trainer = LongContextGRPOTrainer(
            job,
            model,
            grpo_config(job, layout, max(map(len, prompts.token_ids)), work),
            tokenizer,
            start=start_weights(job, model, lambda: load_policy(inputs["model"], job.model)),
            # A function, since the engine samples from the model as the trainer has prepared it.
            batches_of=batches_of,
            samples=JsonLines(work / OUTPUT / SAMPLES),
        )
    quiet(trainer)
    if job.grpo.optimizer_across_phases == "carried" and job.index > 1:
        trainer.add_callback(CarriedOptimizer(trainer, inputs["model"]))
    return trainer


def start_weights(job: GRPOJob, policy: Any, load: Callable[[], Any]) -> Any:
    """The phase's starting weights as a model of their own, where a KL to them needs one that TRL does not make.

    For a KL term TRL makes a reference itself, but with an adapter it switches that off in the policy instead, and its
    pass could not be told from the policy's own.

    Args:
        job: The phase.
        policy: Before a trainer takes it.
        load: Loads a second copy, since the policy's own weights are about to change.
    """
    if job.lora is not None:
        return start_of(policy) if job.grpo.kl_to_start_every or job.grpo.kl_coefficient else None
    return load() if job.grpo.kl_to_start_every else None


def rollout_sampling(job: GRPOJob) -> Sampling:
    """How completions are sampled in this phase; every phase has its own seed."""
    grpo, limit = job.grpo, job.phase.max_completion_tokens
    return Sampling(grpo.temperature, grpo.top_p, limit, seed=job.seed * 1000 + job.index, stop=grpo.stop)


def rollout_engine(job: GRPOJob, trainer: LongContextGRPOTrainer) -> Engine:
    """The engine of ``grpo.engine``, sampling from the trainer's weights.

    Raises:
        ValueError: ``transformers`` with sharded weights. Each process samples at its own pace, but a
            forward over sharded weights needs all of them.
    """
    if job.grpo.engine.startswith("vllm"):
        if job.lora is not None:
            send_merged(trainer)
        return TrainerEngine(trainer)
    if trainer.is_fsdp_enabled:
        raise ValueError(
            f"grpo.engine='transformers' samples on each process alone, but {job.launch.accelerate_config} shards the "
            "weights: set grpo.engine='vllm-colocate', or launch.accelerate_config to none"
        )
    return TransformersEngine(trainer.model, trainer.processing_class, batch_size=job.grpo.micro_batch_size)


def run(job: GRPOJob, inputs: Mapping[str, Path], work: Path) -> None:
    """The GRPO stage: inputs ``model``, ``data`` and perhaps ``probe``; output a policy folder.

    Raises:
        ValueError: settings or rows that cannot be trained on.
        RewardAlarm: rewards over the ceilings of ``rewards``.
        EntropyAlarm: the entropy has collapsed and ``grpo.entropy_alarm.stop`` is set.
        SystemExit: 143 after SIGTERM, with a checkpoint to resume from.
    """
    rank = set_up_process(job.launch).process_index
    train_phase(job, inputs, work, reward_scorer(job, rank))


def train_phase(job: GRPOJob, inputs: Mapping[str, Path], work: Path, scorer: Scorer) -> None:
    """:func:`run` with a scorer of your own."""
    state = set_up_process(job.launch)
    trainer = build_trainer(
        job, inputs=inputs, work=work, scorer=scorer, processes=state.num_processes, rank=state.process_index
    )
    updates = batch_layout(job, state.num_processes).updates_per_batch
    lines = JsonLines(work / OUTPUT / METRICS)
    boundary = StepBoundary(updates, job.phase.steps, job.grpo.save_steps)
    trainer.add_callback(boundary)
    trainer.add_callback(MetricsCallback(lines, f"grpo-{job.index}", updates, grpo_metrics.row, grpo_metrics.sentence))
    with taken_up(work, state) as checkpoint:
        _restore(trainer, checkpoint, lines, state)
        logger.info(
            "grpo-%d: %d steps of %d prompts x %d, engine %s, attention %s, prompts %s%s",
            job.index,
            job.phase.steps,
            job.grpo.batch_size,
            job.grpo.group_size,
            job.grpo.engine,
            attention_implementation(job.model),
            "shared" if trainer.logprobs.shares_prompts else "repeated",
            f", from {checkpoint.name}" if checkpoint else "",
        )
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        boundary.exit_if_stopped()
        _save_output(job, trainer, work / OUTPUT)
    leave_group()


def _restore(trainer: LongContextGRPOTrainer, checkpoint: Path | None, lines: JsonLines, state: PartialState) -> None:
    """Restore the state of the checkpoint, if any, and cut the written files back to its step."""
    if checkpoint is not None:
        trainer.restore(read_state(checkpoint))
    if state.is_main_process:
        for file in (lines, trainer.samples):
            file.cut_back(trainer.batches.drawn)
    state.wait_for_everyone()


def _save_output(job: GRPOJob, trainer: LongContextGRPOTrainer, output: Path) -> None:
    save_policy(trainer, trainer.processing_class, job.model.dtype, output)
    if job.grpo.optimizer_across_phases == "carried":
        write_optimizer(trainer.model_wrapped, trainer.optimizer, output / CARRIED)
    if trainer.accelerator.is_main_process:
        write_json(output / DIFFICULTY, curriculum.to_json(trainer.batches.difficulties))


if __name__ == "__main__":
    stage_main(GRPOJob, run)
