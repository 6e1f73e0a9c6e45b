"""Supervised fine-tuning on worked solutions with TRL's ``SFTTrainer``; only the solution has a loss.

Stage command::

    accelerate launch -m qwenlong_core.training.sft --job job.json --input model=DIR --input data=DIR --work DIR

The output is a policy folder that also holds ``metrics.jsonl``.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import set_seed
from trl import SFTConfig, SFTTrainer

from qwenlong_core.data.prepared import SFT_ROWS
from qwenlong_core.data.prompts import as_completion, encode, render_prompt
from qwenlong_core.data.rows import read_examples
from qwenlong_core.jobs import SFTJob
from qwenlong_core.models import attention_implementation, load_tokenizer
from qwenlong_core.records import Example
from qwenlong_core.settings.lora import require_lora_alone
from qwenlong_core.settings.training import SFTSettings
from qwenlong_core.stage_main import OUTPUT, stage_main
from qwenlong_core.store.files import METRICS
from qwenlong_core.training.hooks import StageTrainer
from qwenlong_core.training.logprobs.attention import NAME
from qwenlong_core.training.logprobs.cpu_head import use_compact_head
from qwenlong_core.training.logprobs.fast_linear import use_fast_linear
from qwenlong_core.training.logprobs.packing import IGNORED
from qwenlong_core.training.logprobs.span_check import require_cuttable_policy
from qwenlong_core.training.logprobs.texts import end_to_end, forward_over
from qwenlong_core.training.logprobs.ulysses import Span, make_span
from qwenlong_core.training.lora import adapter_config
from qwenlong_core.training.metrics import JsonLines, MetricsCallback
from qwenlong_core.training.runtime import (
    StepBoundary,
    leave_group,
    quiet,
    save_policy,
    set_up_process,
    trainer_arguments,
    training_weights,
)
from qwenlong_core.training.sft_packing import data_share, packed, row_weights
from qwenlong_core.training.sharding import start_policy
from qwenlong_core.training.taking_up import taken_up

logger = logging.getLogger(__name__)


def solution_row(tokenizer: Any, example: Example) -> dict[str, list[int]]:
    """``input_ids`` and ``labels`` of prompt, solution and end of sequence; only the solution has labels.

    Raises:
        ValueError: the example has no solution.
    """
    if not example.solution:
        raise ValueError(f"SFT row {example.id!r} has no solution to imitate: drop the row or add the solution")
    prompt = render_prompt(tokenizer, example)
    try:
        solution = as_completion(prompt, example.solution)
    except ValueError as error:
        raise ValueError(f"SFT row {example.id!r}: {error}") from error
    # Encoded apart, as in GRPO, where the prompt's tokens are fixed before a completion is sampled.
    prompt_ids = encode(tokenizer, prompt)
    solution_ids = [*encode(tokenizer, solution), tokenizer.eos_token_id]
    return {"input_ids": prompt_ids + solution_ids, "labels": [IGNORED] * len(prompt_ids) + solution_ids}


def tokenized(tokenizer: Any, examples: Sequence[Example], max_tokens: int) -> list[dict[str, list[int]]]:
    """The rows of at most ``max_tokens`` tokens; the log says how many longer ones were dropped.

    Raises:
        ValueError: no row is left.
    """
    rows = [solution_row(tokenizer, example) for example in examples]
    fitting = [row for row in rows if len(row["input_ids"]) <= max_tokens]
    logger.info("sft rows: %d; dropped for over %d tokens: %d", len(fitting), max_tokens, len(rows) - len(fitting))
    if not fitting:
        raise ValueError(
            f"no SFT row fits sft.max_tokens={max_tokens} ({len(rows)} rows given): raise it or add shorter rows"
        )
    return fitting


def training_order(rows: int, epochs: float, batch_size: int, seed: int) -> list[int]:
    """Row numbers in training order, in whole batches: one shuffle of all rows after another.

    The order is fixed in advance, so that a resumed run can skip to its place without any sampler state.
    """
    # Whole batches only: the last steps begin another epoch rather than train on a smaller batch.
    wanted = max(1, round(epochs * rows / batch_size)) * batch_size
    generator = random.Random(seed)
    order: list[int] = []
    while len(order) < wanted:
        order += generator.sample(range(rows), rows)
    return order[:wanted]


def accumulation(settings: SFTSettings, processes: int, copies: int = 1) -> int:
    """Micro-batches per optimizer step on one process.

    Args:
        settings: The batch's sizes.
        processes: Over which it is spread.
        copies: Neighbouring processes that hold the same rows (``launch.sequence_parallel``).

    Raises:
        ValueError: the batch cannot be divided evenly.
    """
    at_once = settings.micro_batch_size * (processes // copies)
    if settings.batch_size % at_once:
        fit = max(at_once, settings.batch_size // at_once * at_once)
        shared = f" and launch.sequence_parallel={copies}" if copies > 1 else ""
        raise ValueError(
            f"sft.batch_size={settings.batch_size} cannot be divided evenly over {processes} process(es) with "
            f"sft.micro_batch_size={settings.micro_batch_size}{shared}: use a multiple of {at_once}, such as {fit}"
        )
    return settings.batch_size // at_once


def dealt(rows: int, at_once: int, copies: int) -> list[int]:
    """Row numbers in the order in which accelerate deals them out: one forward's rows to each process in turn.

    ``copies`` neighbours get the same ``at_once`` rows.
    """
    forwards = [list(range(first, min(first + at_once, rows))) for first in range(0, rows, at_once)]
    return [row for forward in forwards for row in forward * copies]


class ResumableSFTTrainer(StageTrainer, SFTTrainer):  # type: ignore[misc]
    """``SFTTrainer`` whose checkpoints are sealed and hold no pickle."""

    rows_per_step: int | None = None
    """Rows of an optimizer step over all processes where the loss is the mean of the rows' means; ``None``: TRL's
    mean over all answer tokens of the step. Both count a row once for each process that holds it."""
    span: Span | None = None
    """The processes that hold the same rows and compute them together."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Called for every forward. Ours weighs the log-probs, so that TRL's sum over them is the mean over rows.

        TRL divides the sum by ``num_items_in_batch``, which transformers makes the answer tokens of the whole step:
        all its forwards, on all processes. With weights that add up to 1 over the step it has to divide by 1.
        """
        run = model
        if self.span is not None:
            inputs, run = end_to_end(inputs), partial(forward_over, self.span, model)
        if self.rows_per_step is None:
            return super().compute_loss(run, inputs, return_outputs, num_items_in_batch)

        def weighted(**arguments: Any) -> Any:
            outputs = run(**arguments)
            weights = row_weights(outputs.label_mask, arguments.get("position_ids"))
            outputs.log_probs = outputs.log_probs * weights / self.rows_per_step
            return outputs

        return super().compute_loss(weighted, inputs, return_outputs, torch.ones(()))


def _row(logs: dict[str, Any], step: int, step_tokens: Sequence[int]) -> dict[str, Any]:
    names = ("loss", "grad_norm", "learning_rate", "entropy", "mean_token_accuracy")
    return {name: logs.get(name) for name in names} | {"tokens": step_tokens[step - 1]}


def tokens_by_step(rows: Sequence[Mapping[str, Sequence[int]]], batch_size: int) -> list[int]:
    """Tokens (prompts included) of each optimizer step; ``rows`` are in training order."""
    lengths = [len(row["input_ids"]) for row in rows]
    return [sum(lengths[i : i + batch_size]) for i in range(0, len(lengths), batch_size)]


def _sentence(row: dict[str, Any]) -> str:
    return f"loss {row['loss']:.3f} | token accuracy {row['mean_token_accuracy']:.2f} | grad {row['grad_norm']:.2f}"


def build_trainer(
    job: SFTJob, model_dir: Path, tokenizer: Any, rows: list[dict[str, list[int]]], work: Path
) -> ResumableSFTTrainer:
    """The trainer of a policy folder; ``rows`` are in training order.

    Raises:
        ValueError: the batch cannot be divided, the model's rows cannot be cut over ``launch.sequence_parallel``, or
            ``lora`` does not go with a setting or with the model.
    """
    require_lora_alone(job.lora, job.launch)
    set_seed(job.seed)
    require_cuttable_policy(model_dir, job.model, job.launch.sequence_parallel)
    return trainer_of(job, start_policy(model_dir, training_weights(job.model, job.lora)), tokenizer, rows, work)


def trainer_of(
    job: SFTJob, policy: Any, tokenizer: Any, rows: list[dict[str, list[int]]], work: Path
) -> ResumableSFTTrainer:
    """The trainer of a policy in memory.

    Raises:
        ValueError: the batch cannot be divided.
    """
    copies, at_once = job.launch.sequence_parallel, 1 if job.sft.packing else job.sft.micro_batch_size
    dataset = Dataset.from_list(packed(rows, job.sft) if job.sft.packing else rows)
    arguments = SFTConfig(
        **trainer_arguments(job.model, job.launch, job.seed, work / "checkpoints"),
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=accumulation(job.sft, job.launch.num_processes, copies),
        packing=job.sft.packing,
        max_steps=len(rows) // job.sft.batch_size,
        learning_rate=job.sft.learning_rate,
        weight_decay=job.sft.weight_decay,
        lr_scheduler_type="linear",
        # The rows are tokenised, filtered and ordered: TRL must not shuffle, cut or prepare them again.
        train_sampling_strategy="sequential",
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = ResumableSFTTrainer(
        model=policy,
        args=arguments,
        train_dataset=dataset.select(dealt(len(dataset), at_once, copies)) if copies > 1 else dataset,
        processing_class=tokenizer,
        peft_config=adapter_config(policy, job.lora),
    )
    trainer.rows_per_step = job.sft.batch_size * copies if job.sft.loss == "rows" else None
    trainer.span = make_span(copies)
    if trainer.span is not None:
        trainer.model.set_attn_implementation(NAME)
    # After the trainer, whose constructor installs TRL's own head.
    use_compact_head(trainer.model)
    use_fast_linear(trainer.model)
    quiet(trainer)
    return trainer


def _layout(job: SFTJob) -> str:
    """How the rows of a forward lie."""
    if job.launch.sequence_parallel > 1:
        return f"cut over {job.launch.sequence_parallel} processes"
    return "packed" if job.sft.packing else "padded"


def run(job: SFTJob, inputs: Mapping[str, Path], work: Path) -> None:
    """Run the SFT stage: inputs ``model`` and ``data``, output a policy folder.

    Raises:
        ValueError: the settings do not fit each other, or no row can be trained on.
        SystemExit: 143 after SIGTERM; the run can resume from its checkpoint.
    """
    state = set_up_process(job.launch)
    tokenizer = load_tokenizer(inputs["model"])
    rows = tokenized(tokenizer, read_examples(inputs["data"] / SFT_ROWS), job.sft.max_tokens)
    rows = [rows[i] for i in training_order(len(rows), job.sft.epochs, job.sft.batch_size, job.seed)]
    step_tokens = tokens_by_step(rows, job.sft.batch_size)
    trainer = build_trainer(job, inputs["model"], tokenizer, rows, work)
    steps = trainer.args.max_steps
    lines = JsonLines(work / OUTPUT / METRICS)
    boundary = StepBoundary(updates=1, steps=steps, save_steps=job.sft.save_steps)
    trainer.add_callback(boundary)
    trainer.add_callback(MetricsCallback(lines, "sft", 1, partial(_row, step_tokens=step_tokens), _sentence))
    with taken_up(work, state) as checkpoint:
        if state.is_main_process:
            lines.cut_back(int(checkpoint.name.removeprefix("checkpoint-")) if checkpoint else 0)
        logger.info(
            "sft: %d steps of %d rows, attention %s, %s: %.0f%% of the computed tokens are data%s",
            steps,
            job.sft.batch_size,
            attention_implementation(job.model),
            _layout(job),
            100 * (data_share(rows, job.sft) if _layout(job) == "padded" else 1),
            f", from {checkpoint.name}" if checkpoint else "",
        )
        state.wait_for_everyone()
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        boundary.exit_if_stopped()
        save_policy(trainer, tokenizer, job.model.dtype, work / OUTPUT)
    leave_group()


if __name__ == "__main__":
    stage_main(SFTJob, run)
