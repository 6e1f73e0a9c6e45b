"""TRL's ``GRPOTrainer`` with this project's rollouts: dynamic sampling, whole groups, exact resume.

What TRL does stays TRL's: padding, old and reference log-probs, group advantages, the clipped
token-level loss, the optimizer loop. What is replaced is where its batch comes from::

    PromptStream -> Rollouts -> fill_batch -> arrange -> rows -> GRPOTrainer

One of the trainer's epochs is one rollout batch: the dataset it iterates is a row of placeholders,
so that nothing of the data order lives in samplers, which TRL cannot resume.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import split_tensor_dict

from qwenlong_core.records import Group
from qwenlong_core.settings.training import DynamicSamplingSettings, Truncated
from qwenlong_core.training.checkpoints import SealedCheckpoints
from qwenlong_core.training.curriculum import UNSEEN, Difficulties, from_json, to_json, to_retire
from qwenlong_core.training.dynamic_sampling import PromptStream, RolloutBatch, arrange, fill_batch
from qwenlong_core.training.logprobs.group_pass import GroupScoring
from qwenlong_core.training.rollout import Rollouts
from qwenlong_core.training.rows import Placed, Row, empty_rows, rows_of
from qwenlong_core.training.surplus import OldLogprobs, SurplusGroup, surplus_from_json

logger = logging.getLogger(__name__)


def carried_by_rows(**_: Any) -> None:
    """Stands where TRL wants a reward function: rewards come with the rows."""


class _SkipEmptyUpdates(TrainerCallback):  # type: ignore[misc]
    """A mini-batch without informative groups leaves the weights as they are.

    A gradient of zero would not: Adam would go on along its momentum.
    """

    def __init__(self, trainer: LongContextGRPOTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.trainer.update_has_loss():
            self.trainer.model_wrapped.zero_grad(set_to_none=True)


class LongContextGRPOTrainer(SealedCheckpoints, GroupScoring, GRPOTrainer):  # type: ignore[misc]
    """GRPO whose batches are filled by dynamic sampling.

    Args:
        model: The policy.
        args: With ``steps_per_generation`` forwards per rollout batch.
        tokenizer: The policy's.
        sampling: Dynamic sampling settings.
        truncated: Whether truncated completions count.
        difficulties: What earlier phases recorded; extended by every group drawn.
        retire_after_visits: When to give up on a prompt that was never solved.

    Call :meth:`draw_from` before training.
    """

    def __init__(
        self,
        model: Any,
        args: GRPOConfig,
        tokenizer: Any,
        sampling: DynamicSamplingSettings,
        truncated: Truncated,
        difficulties: Difficulties,
        retire_after_visits: int | None = None,
        callbacks: list[Any] | None = None,
    ) -> None:
        self.prompts_per_batch = args.generation_batch_size // args.num_generations
        super().__init__(
            model=model,
            reward_funcs=[carried_by_rows],
            args=args,
            train_dataset=Dataset.from_dict({"prompt": [""] * self.prompts_per_batch}),
            processing_class=tokenizer,
            callbacks=callbacks,
        )
        self.dynamic_sampling, self.truncated = sampling, truncated
        self.difficulties, self.retire_after_visits = difficulties, retire_after_visits
        self.batch = RolloutBatch()
        self._left: list[SurplusGroup] = []
        self._rows: list[Row] = []
        self._in_old_pass = False
        self._hopeless_kept = 0
        self._slices_in_loss: list[bool] = []
        self.add_callback(_SkipEmptyUpdates(self))

    def draw_from(self, rollouts: Rollouts, stream: PromptStream) -> None:
        """Set where batches come from."""
        self.rollouts, self.stream = rollouts, stream
        examples = rollouts.prompts.examples
        self._prompt_ids = {e.id: ids for e, ids in zip(examples, rollouts.prompts.token_ids)}
        self._retire()

    # -- resume ----------------------------------------------------------------------------------

    def own_state(self) -> dict[str, Any]:
        """Position in the prompt stream, retired rows, forwards done, difficulty, and groups left over."""
        return {
            "stream_position": self.stream.position,
            "retired": sorted(self.stream.retired),
            "forwards": self._step,
            "difficulty": to_json(self.difficulties),
            "left": [group.to_json() for group in self._left],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`own_state`."""
        self.stream.position, self.stream.retired = state["stream_position"], set(state["retired"])
        self._step = state["forwards"]
        self.difficulties = from_json(state["difficulty"])
        examples = {example.id: example for example in self.rollouts.prompts.examples}
        self._left = [surplus_from_json(group, examples) for group in state["left"]]

    # -- a rollout batch ---------------------------------------------------------------------------

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        forwards = self.args.steps_per_generation
        if self._step % forwards == 0:
            self._buffered_inputs = split_tensor_dict(self._next_batch(), forwards)
        return self._buffered_inputs[self._step % forwards]

    def _next_batch(self) -> dict[str, Any]:
        processes = self.accelerator.num_processes
        self.batch = fill_batch(
            self.stream,
            self.rollouts,
            self.prompts_per_batch,
            self.dynamic_sampling,
            self.truncated,
            processes,
            [left.group for left in self._left],
        )
        for group in self.batch.groups:
            self._remember(group)
        self._retire()
        used, fresh = self._left[: self.batch.from_last], self.batch.kept[self.batch.from_last :]
        placed: list[Placed] = [(left.group, left.old_logprobs) for left in used]
        placed += [(group, None) for group in fresh]
        minis = self.args.steps_per_generation // self.args.gradient_accumulation_steps
        slots = arrange(placed, self.prompts_per_batch, minis, processes)
        self._slices_in_loss = self._in_loss(slots)
        self._rows = [row for slot in slots[self.accelerator.process_index] for row in self._to_rows(slot)]
        self._left = self._with_old_logprobs(self.batch.surplus)
        return self._prepared_rows()

    def _prepared_rows(self) -> dict[str, Any]:
        """The rows as TRL's batch, with old log-probs wherever a policy before this one sampled."""
        self._in_old_pass = True
        # The prompt TRL carries about is the row's number: its text would be gathered on every process.
        inputs = [{"prompt": str(number)} for number in range(len(self._rows))]
        output: dict[str, Any] = self._generate_and_score_completions(inputs)
        if self.batch.from_last and "old_per_token_logps" not in output:
            output["old_per_token_logps"] = self._old_pass(output)
        self._in_old_pass = False
        return output

    @torch.no_grad()
    def _old_pass(self, batch: dict[str, Any]) -> torch.Tensor:
        """Old log-probs ``[rows, tokens]``, for a batch on which TRL takes them for the current ones."""
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        size, columns = self.args.per_device_train_batch_size, batch["completion_ids"].size(1)
        logps: torch.Tensor = self._get_per_token_logps_and_entropies(self.model, ids, mask, columns, batch_size=size)[
            0
        ]
        return logps

    def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """The pass; the old one then takes in what the policy of the last step gave its own groups."""
        logps, entropies, aux = super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
        if self._in_old_pass and model is self.model:
            for values, row in zip(logps, self._rows):
                if row.old_logprobs is not None:
                    values[: len(row.old_logprobs)] = values.new_tensor(row.old_logprobs)
        return logps, entropies, aux

    def _with_old_logprobs(self, groups: Sequence[Group]) -> list[SurplusGroup]:
        """The groups with the log-probs of the policy as it stands, which sampled them. Each process
        scores as many, since sharded training needs as many forwards on each."""
        share = -(-len(groups) // self.accelerator.num_processes)
        first = share * self.accelerator.process_index
        own = [groups[number % len(groups)] for number in range(first, first + share)]
        scored: list[OldLogprobs] = gather_object([self._logprobs_of(group) for group in own]) if own else []
        return [SurplusGroup(group, logprobs) for group, logprobs in zip(groups, scored)]

    def _logprobs_of(self, group: Group) -> OldLogprobs:
        completions = [completion.token_ids for completion in group.completions]
        return self.completion_logprobs(self._prompt_ids[group.example.id], completions)

    def _remember(self, group: Group) -> None:
        accuracies = [score.accuracy for score in group.scores if score.accuracy is not None]
        if len(accuracies) == len(group.scores):
            self.difficulties[group.example.id] = self.difficulties.get(group.example.id, UNSEEN).after(accuracies)

    def _retire(self) -> None:
        """Take prompts that were visited in vain too often out of the stream, and say where that must stop."""
        examples, retired = self.rollouts.prompts.examples, self.stream.retired
        rows, hopeless_kept = to_retire(
            examples, self.difficulties, self.retire_after_visits, retired, keep=self.prompts_per_batch
        )
        retired.update(rows)
        if hopeless_kept > self._hopeless_kept:
            logger.warning(
                "%d prompt(s) without a right completion in %s visits are drawn on: with %d of %d retired, no more than"
                " batch_size=%d are left; add rows or raise curriculum.retire_after_visits",
                hopeless_kept,
                self.retire_after_visits,
                len(retired),
                len(examples),
                self.prompts_per_batch,
            )
        self._hopeless_kept = hopeless_kept

    def _in_loss(self, slots: list[list[Placed | None]]) -> list[bool]:
        """For each forward of the batch, whether any process has a group in it."""
        per_forward = self.args.per_device_train_batch_size // self.num_generations
        return [
            any(slot is not None for own in slots for slot in own[i * per_forward : (i + 1) * per_forward])
            for i in range(self.args.steps_per_generation)
        ]

    def _to_rows(self, slot: Placed | None) -> list[Row]:
        if slot is None:
            return empty_rows(self.num_generations, self._tokenizer.eos_token_id)
        group, old = slot
        return rows_of(group, self._prompt_ids[group.example.id], self.truncated, old)

    def _generate(self, prompts: list[str]) -> tuple[Any, ...]:
        """The rows drawn already, in the form TRL expects of its own generation."""
        rows = [self._rows[int(number)] for number in prompts]
        in_loss = [[int(row.in_loss)] * len(row.completion_ids) for row in rows]
        known = all(row.logprobs is not None for row in rows)
        logprobs = [list(row.logprobs or ()) for row in rows] if known else None
        prompt_ids = [list(row.prompt_ids) for row in rows]
        completion_ids = [list(row.completion_ids) for row in rows]
        return prompt_ids, completion_ids, in_loss, [""] * len(rows), logprobs, {}, None, []

    def _calculate_rewards(self, *_: Any) -> torch.Tensor:
        """The rows' rewards ``[rows of all processes, 1]``."""
        values = [[row.reward] for row in self._rows]
        rewards = torch.tensor(values, dtype=torch.float32, device=self.accelerator.device)
        gathered: torch.Tensor = self.accelerator.gather(rewards)
        return gathered

    def update_has_loss(self) -> bool:
        """Whether the optimizer step being finished has an informative group on any process."""
        accumulated = self.args.gradient_accumulation_steps
        end = (self._step - 1) % self.args.steps_per_generation + 1
        return any(self._slices_in_loss[end - accumulated : end])

    # -- the loss ------------------------------------------------------------------------------------

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        metrics = self._metrics["train"]
        before = {key: len(values) for key, values in metrics.items()}
        loss = super()._compute_loss(model, inputs)
        if not self._slices_in_loss[self._step % self.args.steps_per_generation]:
            # An empty forward reports zeros; they are no measurement, and TRL leaves NaN out of its means.
            for key, values in metrics.items():
                values[before.get(key, 0) :] = [float("nan")] * (len(values) - before.get(key, 0))
        return loss
