"""One GRPO phase: the rows of one length bucket and hard rows of earlier ones, batch after batch.

Stage command::

    accelerate launch -m qwenlong_core.training.grpo --job job.json --input model=DIR --input data=DIR --work DIR

Output: the policy folder with ``metrics.jsonl`` (a line a step), ``samples.jsonl`` (best and worst
completion of each group) and ``difficulty.json`` (what later phases choose by) in it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwenlong_core.data.prepared import TRAIN_ROWS
from qwenlong_core.data.rows import read_phase
from qwenlong_core.generation.engine import Engine, Sampling
from qwenlong_core.generation.transformers_engine import TransformersEngine
from qwenlong_core.generation.vllm_check import require_vllm
from qwenlong_core.jobs import GRPOJob
from qwenlong_core.models import attention_implementation, load_policy, load_tokenizer
from qwenlong_core.records import Completion, Example, Score
from qwenlong_core.rewards.health import require_judge
from qwenlong_core.rewards.hybrid import score_completions
from qwenlong_core.rewards.judge import Judge
from qwenlong_core.rewards.length import LengthLimits
from qwenlong_core.stage_main import OUTPUT, stage_main
from qwenlong_core.store.artifacts import METRICS
from qwenlong_core.store.files import write_json
from qwenlong_core.training import curriculum, grpo_metrics
from qwenlong_core.training.arguments import grpo_config, layout
from qwenlong_core.training.carried_optimizer import FOLDER, CarriedOptimizer
from qwenlong_core.training.checkpoints import delete_partial, newest_complete, read_state
from qwenlong_core.training.dynamic_sampling import PromptStream
from qwenlong_core.training.logprobs.cpu_head import use_compact_head
from qwenlong_core.training.logprobs.fast_linear import use_fast_linear
from qwenlong_core.training.metrics import JsonLines, MetricsCallback
from qwenlong_core.training.phase_trainer import GRPOPhaseTrainer
from qwenlong_core.training.rollout import Prompts, Rollouts, Scorer
from qwenlong_core.training.runtime import StepBoundary, quiet, save_policy, set_up_process, training_weights
from qwenlong_core.training.state_files import save_optimizer
from qwenlong_core.training.trainer_engine import TrainerEngine

logger = logging.getLogger(__name__)


def phase_examples(job: GRPOJob, data: Path, difficulties: curriculum.Difficulties) -> list[Example]:
    """The phase's own rows, then its retrospective ones.

    Raises:
        ValueError: the phase has fewer rows than a batch takes.
    """
    path = data / TRAIN_ROWS
    own = read_phase(path, job.index)
    earlier: list[Example] = []
    if difficulties and job.index > 1:
        earlier = [example for i in range(1, job.index) for example in read_phase(path, i)]
    limit = curriculum.retrospective_limit(len(own), job.grpo.curriculum.retrospective_share)
    back = curriculum.choose_retrospective(
        earlier, difficulties, limit, job.grpo.group_size, job.seed, job.grpo.curriculum.retire_after_visits
    )
    logger.info("grpo-%d: %d rows of its own length, %d hard ones of earlier phases", job.index, len(own), len(back))
    if len(own) + len(back) < job.grpo.batch_size:
        raise ValueError(
            f"phase {job.index} has {len(own) + len(back)} rows, fewer than grpo.batch_size={job.grpo.batch_size}: "
            "add rows of its length or lower batch_size"
        )
    return own + back


def reward_scorer(job: GRPOJob) -> Scorer:
    """``max(rule, judge)`` plus the phase's length penalty."""
    limits = LengthLimits(max_tokens=job.phase.max_completion_tokens, cache_tokens=job.phase.cache_tokens)
    judge = Judge(job.rewards.judge) if job.rewards.judge else None
    if judge is not None:
        asyncio.run(require_judge(judge))

    async def score(examples: Sequence[Example], completions: Sequence[Completion]) -> list[Score]:
        return await score_completions(examples, completions, job.rewards, limits, judge)

    return score


def build_trainer(
    job: GRPOJob, inputs: Mapping[str, Path], work: Path, scorer: Scorer, processes: int, rank: int
) -> GRPOPhaseTrainer:
    """The phase's trainer with its rows, engine and prompt stream.

    Raises:
        ValueError: settings or rows that cannot be trained on.
    """
    require_vllm("grpo.engine", job.grpo.engine)
    cut = layout(job, processes)
    difficulties = curriculum.read_difficulties(inputs.get("probe", inputs["model"]))
    examples = phase_examples(job, inputs["data"], difficulties)
    tokenizer = load_tokenizer(inputs["model"])
    model = load_policy(inputs["model"], training_weights(job.model))
    context = model.config.max_position_embeddings
    prompts = Prompts(tokenizer, examples, job.phase, context)
    arguments = grpo_config(job, cut, max(map(len, prompts.token_ids)), work)
    samples = JsonLines(work / OUTPUT / "samples.jsonl")
    trainer = GRPOPhaseTrainer(
        job,
        samples,
        model,
        arguments,
        tokenizer,
        job.grpo.dynamic_sampling,
        job.grpo.truncated,
        difficulties,
        job.grpo.curriculum.retire_after_visits,
    )
    if job.grpo.kl_to_start_every:
        trainer.keep_start(load_policy(inputs["model"], job.model))
    for scored in filter(None, (trainer.model, trainer.ref_model)):
        use_compact_head(scored, job.grpo.temperature)
        use_fast_linear(scored)
    trainer.share_prefixes()
    quiet(trainer)
    sampling = Sampling(
        job.grpo.temperature,
        job.grpo.top_p,
        job.phase.max_completion_tokens,
        job.seed * 1000 + job.index,
        job.grpo.stop,
    )
    engine = rollout_engine(job, trainer, tokenizer)
    if job.grpo.optimizer_across_phases == "carried" and job.index > 1:
        trainer.add_callback(CarriedOptimizer(trainer, inputs["model"] / FOLDER))
    together = job.grpo.engine.startswith("vllm")
    # A judge's answers take time that is not the processor's: it gets each part while the next is sampled.
    part = job.grpo.micro_batch_size if job.rewards.judge else None
    rollouts = Rollouts(prompts, engine, scorer, job.grpo.group_size, sampling, rank, processes, together, part)
    trainer.draw_from(rollouts, PromptStream(len(examples), job.seed))
    return trainer


def rollout_engine(job: GRPOJob, trainer: GRPOPhaseTrainer, tokenizer: Any) -> Engine:
    """The engine of the settings.

    Raises:
        ValueError: the transformers engine with sharded weights, whose processes would wait for each
            other at every token.
    """
    if job.grpo.engine.startswith("vllm"):
        return TrainerEngine(trainer)
    if trainer.is_fsdp_enabled:
        raise ValueError(
            f"grpo.engine='transformers' samples on each process alone, but {job.launch.accelerate_config} shards the "
            "weights: set grpo.engine='vllm-colocate', or launch.accelerate_config to none"
        )
    return TransformersEngine(trainer.model, tokenizer, batch_size=job.grpo.micro_batch_size)


def run(job: GRPOJob, inputs: Mapping[str, Path], work: Path) -> None:
    """The GRPO stage: inputs ``model`` and ``data``, output a policy folder.

    Raises:
        ValueError: settings that cannot be laid out, or rows that cannot be trained on.
        RewardAlarm: rewards over the ceilings of ``rewards``.
        SystemExit: 143 after SIGTERM, with a checkpoint to go on from.
    """
    train_phase(job, inputs, work, reward_scorer(job))


def train_phase(job: GRPOJob, inputs: Mapping[str, Path], work: Path, scorer: Scorer) -> None:
    """:func:`run` with a scorer of one's own."""
    state = set_up_process(job.launch)
    trainer = build_trainer(job, inputs, work, scorer, state.num_processes, state.process_index)
    updates = layout(job, state.num_processes).updates_per_batch
    output = work / OUTPUT
    lines = JsonLines(output / METRICS)
    boundary = StepBoundary(updates, job.phase.steps, job.grpo.save_steps)
    trainer.add_callback(boundary)
    trainer.add_callback(MetricsCallback(lines, f"grpo-{job.index}", updates, grpo_metrics.row, grpo_metrics.sentence))
    checkpoint = newest_complete(work / "checkpoints")
    state.wait_for_everyone()
    if checkpoint is not None:
        trainer.restore(read_state(checkpoint))
    if state.is_main_process:
        delete_partial(work / "checkpoints")
        done = trainer._step // trainer.args.steps_per_generation
        lines.cut_back(done)
        trainer.sample_lines.cut_back(done)
    logger.info(
        "grpo-%d: %d steps of %d prompts x %d, engine %s, attention %s, prompts %s%s",
        job.index,
        job.phase.steps,
        job.grpo.batch_size,
        job.grpo.group_size,
        job.grpo.engine,
        attention_implementation(job.model),
        "shared" if trainer.shares_prefix else "repeated",
        f", from {checkpoint.name}" if checkpoint else "",
    )
    state.wait_for_everyone()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    boundary.exit_if_stopped()
    save_policy(trainer, trainer._tokenizer, job.model.dtype, output)
    if job.grpo.optimizer_across_phases == "carried":
        save_optimizer(trainer.model_wrapped, trainer.optimizer, output / FOLDER)
    if state.is_main_process:
        write_json(output / curriculum.FILE, curriculum.to_json(trainer.difficulties))


if __name__ == "__main__":
    stage_main(GRPOJob, run)
