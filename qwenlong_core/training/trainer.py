"""TRL's ``GRPOTrainer`` with this project's rollouts: dynamic sampling, whole groups, exact resume.

What TRL does stays TRL's: padding, old and reference log-probs, group advantages, the clipped
token-level loss, the optimizer loop. What is replaced is where its batch comes from::

    PromptStream -> Rollouts -> fill_batch -> arrange -> rows -> GRPOTrainer

One of the trainer's epochs is one rollout batch: the dataset it iterates is a row of placeholders,
so that nothing of the data order lives in samplers, which TRL cannot resume.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import split_tensor_dict

from qwenlong_core.config import DynamicSamplingSettings
from qwenlong_core.records import Group
from qwenlong_core.training.checkpoints import SealedCheckpoints
from qwenlong_core.training.curriculum import UNSEEN, Difficulties, from_json, to_json
from qwenlong_core.training.dynamic_sampling import PromptStream, RolloutBatch, arrange, fill_batch
from qwenlong_core.training.rollout import Rollouts
from qwenlong_core.training.scoring import GroupScoring


@dataclass(frozen=True, slots=True)
class Row:
    """One completion as the trainer sees it."""

    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]
    reward: float
    in_loss: bool
    logprobs: Sequence[float] | None = None


def rows_of(slot: Group | None, prompt_ids: Sequence[int], group_size: int, filler: int) -> list[Row]:
    """A group's rows, or for an empty slot as many one-token rows outside the loss."""
    if slot is None:
        return [Row([filler], [filler], 0.0, in_loss=False, logprobs=[0.0])] * group_size
    return [
        Row(prompt_ids, completion.token_ids, score.value, in_loss=True, logprobs=completion.logprobs)
        for completion, score in zip(slot.completions, slot.scores)
        if score.value is not None  # an informative group has a value everywhere
    ]


def _reward(completions: list[str], reward: list[float], **_: Any) -> list[float]:
    """Hands the scores that the rollouts carry already to TRL."""
    return reward


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
        difficulties: What earlier phases recorded; extended by every group drawn.

    Call :meth:`draw_from` before training.
    """

    def __init__(
        self,
        model: Any,
        args: GRPOConfig,
        tokenizer: Any,
        sampling: DynamicSamplingSettings,
        difficulties: Difficulties,
        callbacks: list[Any] | None = None,
    ) -> None:
        self.prompts_per_batch = args.generation_batch_size // args.num_generations
        super().__init__(
            model=model,
            reward_funcs=[_reward],
            args=args,
            train_dataset=Dataset.from_dict({"prompt": [""] * self.prompts_per_batch}),
            processing_class=tokenizer,
            callbacks=callbacks,
        )
        self.dynamic_sampling = sampling
        self.difficulties = difficulties
        self.batch = RolloutBatch()
        self._rows: list[Row] = []
        self._slices_in_loss: list[bool] = []
        self.add_callback(_SkipEmptyUpdates(self))

    def draw_from(self, rollouts: Rollouts, stream: PromptStream) -> None:
        """Set where batches come from."""
        self.rollouts, self.stream = rollouts, stream
        self._prompt_ids = {
            e.id: ids for e, ids in zip(rollouts.prompts.examples, rollouts.prompts.token_ids)
        }

    # -- resume ----------------------------------------------------------------------------------

    def own_state(self) -> dict[str, Any]:
        """Position in the prompt stream, forwards done, and difficulty."""
        return {
            "stream_position": self.stream.position,
            "forwards": self._step,
            "difficulty": to_json(self.difficulties),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`own_state`."""
        self.stream.position = state["stream_position"]
        self._step = state["forwards"]
        self.difficulties = from_json(state["difficulty"])

    # -- a rollout batch ---------------------------------------------------------------------------

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        forwards = self.args.steps_per_generation
        if self._step % forwards == 0:
            self._buffered_inputs = split_tensor_dict(self._next_batch(), forwards)
        return self._buffered_inputs[self._step % forwards]

    def _next_batch(self) -> dict[str, Any]:
        processes = self.accelerator.num_processes
        self.batch = fill_batch(
            self.stream, self.rollouts, self.prompts_per_batch,
            self.dynamic_sampling.max_rounds, self.dynamic_sampling.tolerance, processes,
        )  # fmt: skip
        for group in self.batch.groups:
            self._remember(group)
        minis = self.args.steps_per_generation // self.args.gradient_accumulation_steps
        slots = arrange(self.batch.kept, self.prompts_per_batch, minis, processes)
        self._slices_in_loss = self._in_loss(slots)
        self._rows = [row for slot in slots[self.accelerator.process_index] for row in self._to_rows(slot)]
        # The prompt TRL carries about is the row's number: its text would be gathered on every process.
        inputs = [{"prompt": str(i), "reward": row.reward} for i, row in enumerate(self._rows)]
        output: dict[str, Any] = self._generate_and_score_completions(inputs)
        return output

    def _remember(self, group: Group) -> None:
        accuracies = [score.accuracy for score in group.scores if score.accuracy is not None]
        if len(accuracies) == len(group.scores):
            self.difficulties[group.example.id] = self.difficulties.get(group.example.id, UNSEEN).after(
                accuracies
            )

    def _in_loss(self, slots: list[list[Group | None]]) -> list[bool]:
        """For each forward of the batch, whether any process has a group in it."""
        per_forward = self.args.per_device_train_batch_size // self.num_generations
        return [
            any(slot is not None for own in slots for slot in own[i * per_forward : (i + 1) * per_forward])
            for i in range(self.args.steps_per_generation)
        ]

    def _to_rows(self, slot: Group | None) -> list[Row]:
        prompt_ids = [] if slot is None else self._prompt_ids[slot.example.id]
        return rows_of(slot, prompt_ids, self.num_generations, self._tokenizer.eos_token_id)

    def _generate(self, prompts: list[str]) -> tuple[Any, ...]:
        """The rows drawn already, in the form TRL expects of its own generation."""
        rows = [self._rows[int(number)] for number in prompts]
        in_loss = [[int(row.in_loss)] * len(row.completion_ids) for row in rows]
        known = all(row.logprobs is not None for row in rows)
        logprobs = [list(row.logprobs or ()) for row in rows] if known else None
        prompt_ids = [list(row.prompt_ids) for row in rows]
        completion_ids = [list(row.completion_ids) for row in rows]
        return prompt_ids, completion_ids, in_loss, [""] * len(rows), logprobs, {}, None, []

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
