"""The trainer of a GRPO phase: TRL's ``GRPOTrainer`` with this project's batches, log-probs and checkpoints.

TRL keeps what is GRPO: padding, group advantages, the clipped token-level loss, the optimizer loop. This
project replaces where a batch comes from, how log-probs are computed, what is reported and what is saved.
One step is one rollout batch, followed by one or more optimizer steps (updates) on it. All processes run
the same sequence. ``||`` marks where they wait for each other; in log-prob passes only if the weights are
sharded::

    train()                                    transformers' loop; every epoch is one batch of placeholders
    |
    +- each forward: _prepare_inputs           a slice of the batch; the step's first forward draws it:
    |    +- next_batch
    |         +- Batches.next_batch            || draw, sample, score, refill (batches.py)
    |         |    +- GroupPass.of_group       || log-probs of surplus groups, before the policy changes
    |         +- TRL: _generate_and_score_completions
    |         |    +- _generate                   the rows, which are sampled already
    |         |    +- _get_per_token_logps...  || old log-probs, if TRL needs them; surplus rows keep theirs
    |         |    +- _get_per_token_logps...  || reference log-probs, if there is a KL term
    |         |    +- _calculate_rewards       || the rows' rewards; TRL makes them advantages
    |         +- _old_logprobs                 || if TRL computed none and the batch holds surplus groups
    |         +- NegativeMask.apply            || with AEPO, after _old_logprobs if no pass has run yet
    |         +- _report_batch                 || alarms on rewards, KL to the start, sample completions
    |
    +- each forward: _compute_loss             TRL's loss; _get_per_token_logps... runs the training pass
    |    +- backward                           || gradients are reduced at an update's last forward
    |
    +- each update: SkipEmptyUpdates           drops the gradient if no process has an informative group
    |    +- optimizer step
    |
    +- each step's last update: StepBoundary (runtime.py) asks for
         +- log                                || the step's metrics, entropy alarm, MetricsCallback
         +- _save_checkpoint                   || every save_steps steps: weights, optimizer, random states,
                                                  own_state, then the seal (hooks.py, checkpoints.py)

A run that resumes calls ``restore`` before ``train``; transformers then loads the rest through the
``_load_*`` hooks. Written for TRL 1.16 and transformers 5.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from statistics import fmean
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from torch import Tensor
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.models import prepare_fsdp
from trl.trainer.utils import add_fused_lm_head, split_tensor_dict

from qwenlong_core.jobs import GRPOJob
from qwenlong_core.rewards.monitor import check_rewards
from qwenlong_core.training import grpo_metrics
from qwenlong_core.training.aepo import NegativeMask
from qwenlong_core.training.batches import Batches
from qwenlong_core.training.entropy import EntropyAlarm, EntropyWatch
from qwenlong_core.training.hooks import StageTrainer
from qwenlong_core.training.logprobs.cpu_head import use_compact_head
from qwenlong_core.training.logprobs.distances import EngineDistance, mean_kl
from qwenlong_core.training.logprobs.fast_linear import use_fast_linear
from qwenlong_core.training.logprobs.group_pass import GroupPass, Pass, share_prompts
from qwenlong_core.training.logprobs.ulysses import make_span
from qwenlong_core.training.lora import adapter_config
from qwenlong_core.training.metrics import JsonLines
from qwenlong_core.training.rows import Row, StepBatch
from qwenlong_core.training.runtime import checkpointing_off
from qwenlong_core.training.tasks import kept_by_task
from qwenlong_core.training.workload import Workload, shape_of_config

logger = logging.getLogger(__name__)

INFORMATIVE = "informative"
"""Key in TRL's batch, bool ``[rows]``: whether any process has an informative group in the row's forward."""


class Generated(NamedTuple):
    """What ``GRPOTrainer._generate`` of TRL 1.16 returns, under the names of the variables that take it."""

    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    tool_mask: list[list[int]]
    """1 on tokens in the loss. TRL uses it to leave out what a tool wrote. Unlike TRL's other masks it takes
    tokens out of the loss and of its denominator, but attention still sees them."""
    completions: list[str]
    """Texts for TRL's own log, which is off."""
    logprobs: list[list[float]] | None
    """The engine's, if it reported any."""
    extra_fields: dict[str, Any]
    images: None
    tool_images: list[Any]


def generated(rows: Sequence[Row]) -> Generated:
    """Rows as the result of TRL's own generation."""
    # The rows of a group share their prompt, of which there is one list then: TRL makes tensors of it and keeps none.
    prompts = {id(row.prompt_ids): list(row.prompt_ids) for row in rows}
    known = all(row.logprobs is not None for row in rows)
    return Generated(
        prompt_ids=[prompts[id(row.prompt_ids)] for row in rows],
        completion_ids=[list(row.completion_ids) for row in rows],
        tool_mask=[[int(row.in_loss)] * len(row.completion_ids) for row in rows],
        completions=[""] * len(rows),
        logprobs=[list(row.logprobs or ()) for row in rows] if known else None,
        extra_fields={},
        images=None,
        tool_images=[],
    )


def rewards_come_with_rows(**_: Any) -> None:
    """Placeholder for the reward function that TRL requires; see ``_calculate_rewards``."""


class SkipEmptyUpdates(TrainerCallback):  # type: ignore[misc]
    """Leaves the weights as they are in an update without informative groups.

    Zero gradients would not do: Adam would still move the weights by its momentum. It skips a weight
    whose gradient is ``None``.
    """

    def __init__(self, trainer: LongContextGRPOTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Drop the gradient if nothing was learned from."""
        updates = args.steps_per_generation // args.gradient_accumulation_steps
        if not self.trainer.batch.update_learns(state.global_step % updates, updates):
            self.trainer.model_wrapped.zero_grad(set_to_none=True)


class LongContextGRPOTrainer(StageTrainer, GRPOTrainer):  # type: ignore[misc]
    """GRPO on batches that dynamic sampling fills, with shared prompts and exact resume.

    Args:
        job: The phase's settings.
        model: The policy.
        arguments: The job as TRL's arguments.
        tokenizer: The policy's.
        start: The phase's starting weights, if the KL to them is to be measured without a KL term.
        batches_of: Makes the batches of the trainer that is given; an engine may need the trainer's model.
        samples: Where sample completions go.
    """

    batch: StepBatch
    """The batch of the current step."""
    _trained_logps: Tensor
    """Log-probs of the newest training pass, without gradient."""
    _entropies: Tensor | None
    """Entropies ``[rows, C]`` of the batch under the policy that is about to be updated, if they are known yet."""

    def __init__(
        self,
        job: GRPOJob,
        model: Any,
        arguments: GRPOConfig,
        tokenizer: Any,
        *,
        start: Any = None,
        batches_of: Callable[[LongContextGRPOTrainer], Batches],
        samples: JsonLines,
    ) -> None:
        # The placeholders make one epoch one batch, so that no part of the data's order lives in TRL's
        # samplers, whose state no checkpoint holds. TRL counts a group once for each process that holds it.
        placeholders = Dataset.from_dict({"prompt": [""] * job.grpo.batch_size * job.launch.sequence_parallel})
        super().__init__(
            model=model,
            reward_funcs=[rewards_come_with_rows],
            args=arguments,
            train_dataset=placeholders,
            processing_class=tokenizer,
            peft_config=adapter_config(model, job.lora),
        )
        self.job, self.samples = job, samples
        if start is not None:
            self.ref_model = self._as_reference(start)
        for scored in filter(None, (self.model, self.ref_model)):
            # After TRL's constructor and _as_reference: they install TRL's output head, which this replaces.
            use_compact_head(scored, self.temperature)
            use_fast_linear(scored)
            if hasattr(text := scored.config.get_text_config(), "output_router_logits"):
                text.output_router_logits = False  # what a router's loss needs, which is not trained on (runtime.py)
        self.span = make_span(job.launch.sequence_parallel)
        self.logprobs = GroupPass(
            self.accelerator,
            self.num_generations,
            super()._get_per_token_logps_and_entropies,
            shares_prompts=share_prompts(self.model, self.ref_model, self.span),
            span=self.span,
        )
        self.engine_distance = EngineDistance(self.accelerator, self.top_p)
        self.entropy_watch, self.negative_mask = EntropyWatch(), NegativeMask()
        self._aepo: dict[str, Any] = {}
        self.workload = Workload(shape_of_config(self.model.config), job, self.args)
        self.add_callback(SkipEmptyUpdates(self))
        self.batches = batches_of(self)

    def _as_reference(self, start: Any) -> Any:
        """A model prepared as TRL prepares its reference, which it makes only for a KL term in the loss."""
        add_fused_lm_head(start, temperature=self.temperature)
        if self.is_fsdp_enabled:
            return prepare_fsdp(start, self.accelerator)
        return self.accelerator.prepare_model(start, evaluation_mode=True)

    # -- state ---------------------------------------------------------------------------------------

    def own_state(self) -> dict[str, Any]:
        """What a checkpoint holds beside transformers' state, as JSON; the same on every process."""
        return {
            "batches": self.batches.state_dict(),
            "entropy": asdict(self.entropy_watch),
            "negative_mask": asdict(self.negative_mask),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`own_state`."""
        self.batches.load_state_dict(state["batches"])
        self.entropy_watch = EntropyWatch(**state["entropy"])
        self.negative_mask = NegativeMask(**state["negative_mask"])

    # -- a step's batch --------------------------------------------------------------------------------

    def next_batch(self) -> dict[str, Any]:
        """Draw the next batch and return it as TRL's loss takes it.

        Returns:
            Tensors of this process's rows: ``prompt_ids`` and ``prompt_mask`` ``[rows, P]``,
            ``completion_ids``, ``completion_mask``, ``tool_mask`` and log-probs ``[rows, C]``,
            ``advantages`` and ``informative`` ``[rows]``, ``num_items_in_batch`` ``[]``.

        Raises:
            RewardAlarm: rewards over the ceilings of ``rewards``.
        """
        self.batch, self._entropies = self.batches.next_batch(partial(self.logprobs.of_group, self.model)), None
        # TRL gathers the prompts' text on every process for a log that is off. An empty text costs nothing.
        prompts = [{"prompt": ""} for _ in self.batch.rows]
        with checkpointing_off(self.model, self.args.gradient_checkpointing_kwargs):
            batch: dict[str, Any] = self._generate_and_score_completions(prompts)
        batch["advantages"] = batch["advantages"] / torch.tensor(
            [row.divisor for row in self.batch.rows], device=self.accelerator.device
        )
        if self.span is not None:
            batch["advantages"] = self.span.from_first(batch["advantages"])
        if self.batch.drawn.from_last and "old_per_token_logps" not in batch:
            batch["old_per_token_logps"] = self._old_logprobs(batch)
        if self.job.grpo.aepo is not None:
            if self._entropies is None:
                self._old_logprobs(batch)
            self._aepo = self.negative_mask.apply(batch, self._entropies, self.job.grpo.aepo, self.accelerator)
        if self.job.grpo.on_policy:
            # vLLM's correction needed them. Without them TRL's ratio is 1 to the bit.
            batch.pop("old_per_token_logps", None)
        kept, wanted = len(self.batch.drawn.kept), self.job.grpo.batch_size
        if 0 < kept < wanted:
            # TRL divides an update's loss by its share of these tokens, so few groups would stand for a whole batch.
            # With empty slots counted at the mean length, each group weighs what it does in a full batch.
            batch["num_items_in_batch"] = batch["num_items_in_batch"] * (wanted / kept)
        rows_per_forward = self.args.per_device_train_batch_size
        informative = torch.tensor(self.batch.informative_forwards, device=self.accelerator.device)
        batch[INFORMATIVE] = informative.repeat_interleave(rows_per_forward)
        self._report_batch(batch)
        return batch

    @torch.no_grad()
    def _old_logprobs(self, batch: dict[str, Any]) -> Tensor:
        """Old log-probs ``[rows, C]`` of a batch for which TRL takes the current ones: one update, no vLLM."""
        logps: Tensor = self._get_per_token_logps_and_entropies(self.model, *self._pass_inputs(batch))[0]
        return logps

    def _pass_inputs(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor, int, int]:
        """Ids ``[rows, P + C]``, mask of the same shape, C, and the rows of a forward."""
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        return ids, mask, batch["completion_ids"].size(1), self.args.per_device_train_batch_size

    def _report_batch(self, batch: dict[str, Any]) -> None:
        drawn = self.batch.drawn
        check_rewards([score for group in drawn.groups for score in group.scores], self.job.rewards)
        if missing := grpo_metrics.shortfall(drawn, self.job.grpo.batch_size):
            logger.info("grpo-%d: %s", self.job.index, missing)
        if self.job.grpo.kl_to_start_every and self.batch.number % self.job.grpo.kl_to_start_every == 0:
            self._measure_kl(batch)
        if self.accelerator.is_main_process:
            for sample in grpo_metrics.samples(drawn, self.batch.number):
                self.samples.append(sample)

    @torch.no_grad()
    def _measure_kl(self, batch: dict[str, Any]) -> None:
        """Add ``kl`` to the step's metrics: from the policy that sampled to the phase's start."""
        inputs = self._pass_inputs(batch)
        policy = batch.get("old_per_token_logps")
        if policy is None:
            policy = self.logprobs(self.model, *inputs)[0]
        start = self.logprobs(self.ref_model, *inputs)[0]
        self._metrics["train"]["kl"].append(mean_kl(batch, start, policy, self.accelerator))

    def _step_metrics(self) -> dict[str, Any]:
        """What the step reports beside TRL's own metrics."""
        drawn = self.batch.drawn
        metrics = grpo_metrics.batch_metrics(drawn, self.batches.prompt_tokens(drawn.groups))
        lengths = [(self.batches.prompt_tokens([g]), [len(c.token_ids) for c in g.completions]) for g in drawn.kept]
        work = self.workload.of_step(lengths, time.perf_counter() - self._update_began)
        own = {"prompts_retired": len(self.batches.stream.retired)} | self._aepo
        if self.job.grpo.balance_tasks:
            own |= kept_by_task(drawn.kept, self.job.grpo.task)
        return metrics | self.engine_distance.report() | own | work

    # -- TRL's and transformers' hooks, in the order of the diagram, each overridden here or in hooks.py ------

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """Called for every forward, with placeholders. TRL's own would sample, and would shuffle the rows of a
        batch, which breaks up groups."""
        forwards = self.args.steps_per_generation
        if self._step % forwards == 0:
            self._buffered_inputs = split_tensor_dict(self.next_batch(), forwards)
            self._update_began = time.perf_counter()
        return self._buffered_inputs[self._step % forwards]

    def _generate(self, prompts: list[str]) -> tuple[Any, ...]:
        """Called while TRL prepares a batch. The rows have been sampled already."""
        return generated(self.batch.rows)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **options: Any,
    ) -> Pass:
        """Called for the old and the reference pass of a batch and for the training pass of each forward. Ours
        runs a prompt once for its group, and TRL's own only for rows that cannot be packed."""
        scores_batch = model is self.model and not torch.is_grad_enabled()
        if scores_batch and self.job.grpo.aepo is not None:
            options["compute_entropy"] = True
        found = self.logprobs(model, input_ids, attention_mask, logits_to_keep, batch_size, **options)
        logps, entropies, _ = found
        if torch.is_grad_enabled():
            self._trained_logps = logps.detach()
        elif scores_batch:
            # TRL runs the policy without gradient for old log-probs only, and our own passes call
            # self.logprobs. Surplus rows get their own policy's log-probs here, not in the finished batch:
            # TRL computes vLLM's importance ratios from this result.
            self._put_old_logprobs(logps)
            self._entropies = entropies
        return found

    def _put_old_logprobs(self, logps: Tensor) -> None:
        """Overwrite, in ``[rows, C]``, the log-probs of rows that an earlier policy sampled."""
        for values, row in zip(logps, self.batch.rows, strict=True):
            if row.old_logprobs is not None:
                values[: len(row.old_logprobs)] = values.new_tensor(row.old_logprobs)

    def _calculate_rewards(self, *_: Any) -> Tensor:
        """Called after the passes; returns ``[rows of all processes, 1]``. TRL's own would warn about every
        batch with empty slots, whose rows have no reward."""
        values = [[row.reward] for row in self.batch.rows]
        rewards = torch.tensor(values, dtype=torch.float32, device=self.accelerator.device)
        if self.span is not None and self.span.rank > 0:
            rewards.fill_(math.nan)  # the deviation over a batch would count the copies of a group as samples
        gathered: Tensor = self.accelerator.gather(rewards)
        return gathered

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        """Called for every forward. Ours also measures the engine's distance, and keeps forwards without an
        informative group out of TRL's metrics."""
        metrics = self._metrics["train"]
        before = {key: len(values) for key, values in metrics.items()}
        loss = super()._compute_loss(model, inputs)
        if not inputs[INFORMATIVE].any():
            # TRL has appended zeros that measure nothing. Its means leave NaN out.
            for key, values in metrics.items():
                values[before.get(key, 0) :] = [math.nan] * (len(values) - before.get(key, 0))
        self.engine_distance.add(inputs, self._trained_logps)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Called after a step's last update and once at the end of training. Ours adds the step's metrics.

        Raises:
            EntropyAlarm: the entropy has collapsed and ``entropy_alarm.stop`` is set.
        """
        if "loss" not in logs:  # the summary at the end of training
            super().log(logs, start_time)
            return
        measured = [entropy for entropy in self._metrics["train"]["entropy"] if not math.isnan(entropy)]
        alarm = self.entropy_watch.see(fmean(measured) if measured else None, self.job.grpo.entropy_alarm)
        batch = self._step_metrics() | {"entropy_low_steps": self.entropy_watch.low_steps}
        super().log(logs | {"batch": batch}, start_time)
        if alarm and self.job.grpo.entropy_alarm.stop:
            raise EntropyAlarm(f"grpo-{self.job.index}: {alarm}; or set grpo.entropy_alarm.stop=false and run again")
        if alarm:
            logger.warning("grpo-%d: %s", self.job.index, alarm)
