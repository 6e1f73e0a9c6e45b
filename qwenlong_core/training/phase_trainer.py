"""The trainer of a phase: every batch checked, sampled and reported."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict
from statistics import fmean
from typing import Any

from qwenlong_core.jobs import GRPOJob
from qwenlong_core.rewards.monitor import check_rewards
from qwenlong_core.training import grpo_metrics
from qwenlong_core.training.entropy import EntropyAlarm, EntropyWatch
from qwenlong_core.training.logprobs.distances import LogprobDistances
from qwenlong_core.training.metrics import JsonLines
from qwenlong_core.training.runtime import checkpointing_off
from qwenlong_core.training.trainer import LongContextGRPOTrainer

logger = logging.getLogger(__name__)


class GRPOPhaseTrainer(LogprobDistances, LongContextGRPOTrainer):
    """Adds the step's report to the trainer."""

    def __init__(self, job: GRPOJob, sample_lines: JsonLines, *args: Any) -> None:
        super().__init__(*args)
        self.job, self.sample_lines = job, sample_lines
        self.entropy_watch = EntropyWatch()

    def own_state(self) -> dict[str, Any]:
        """Adds what the entropy alarm has seen."""
        return super().own_state() | {"entropy": asdict(self.entropy_watch)}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`own_state`."""
        super().restore(state)
        self.entropy_watch = EntropyWatch(**state["entropy"])

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        with checkpointing_off(self.model, self.args.gradient_checkpointing_kwargs):
            return super()._generate_and_score_completions(inputs)

    def _next_batch(self) -> dict[str, Any]:
        output = super()._next_batch()
        scores = [score for group in self.batch.groups for score in group.scores]
        check_rewards(scores, self.job.rewards)
        missing = grpo_metrics.shortfall(self.batch, self.prompts_per_batch)
        if missing:
            logger.info("grpo-%d: %s", self.job.index, missing)
        step = self._step // self.args.steps_per_generation + 1
        if self.job.grpo.kl_to_start_every and step % self.job.grpo.kl_to_start_every == 0:
            self.measure_kl(output)
        if self.accelerator.is_main_process:
            for sample in grpo_metrics.samples(self.batch, step):
                self.sample_lines.append(sample)
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's log with the batch's metrics beside it.

        Raises:
            EntropyAlarm: the entropy has collapsed and ``entropy_alarm.stop`` is set.
        """
        if "loss" not in logs:  # the closing summary
            super().log(logs, start_time)
            return
        measured = [e for e in self._metrics["train"]["entropy"] if not math.isnan(e)]
        alarm = self.entropy_watch.see(fmean(measured) if measured else None, self.job.grpo.entropy_alarm)
        prompt_tokens = sum(len(self._prompt_ids[group.example.id]) for group in self.batch.groups)
        batch = grpo_metrics.batch_metrics(self.batch, prompt_tokens) | self.engine_difference()
        batch["prompts_retired"] = len(self.stream.retired)
        batch["entropy_low_steps"] = self.entropy_watch.low_steps
        super().log(logs | {"batch": batch}, start_time)
        if alarm and self.job.grpo.entropy_alarm.stop:
            raise EntropyAlarm(f"grpo-{self.job.index}: {alarm}; or set grpo.entropy_alarm.stop=false and run again")
        if alarm:
            logger.warning("grpo-%d: %s", self.job.index, alarm)
