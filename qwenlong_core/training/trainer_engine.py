"""vLLM as TRL runs it, behind the engine interface."""

from __future__ import annotations

from collections.abc import Sequence

from qwenlong_core.generation.engine import Sampling
from qwenlong_core.generation.stopping import StopStrings
from qwenlong_core.records import Completion
from qwenlong_core.training.trainer import LongContextGRPOTrainer


class TrainerEngine:
    """vLLM as TRL runs it, colocated or as a server, with weights kept in step, as an engine."""

    def __init__(self, trainer: LongContextGRPOTrainer) -> None:
        self.trainer = trainer

    def generate(self, prompts: Sequence[Sequence[int]], samples: int, sampling: Sampling) -> list[list[Completion]]:
        """See :class:`qwenlong_core.generation.engine.Engine`; the sampling is the trainer's own."""
        at_once = (self.trainer.args.generation_kwargs or {}).get("n", 1)  # G, or 1 a request
        requests = [list(prompt) for prompt in prompts for _ in range(samples // at_once)]
        token_ids, logprobs = self.trainer._generate_single_turn(requests, None, {}, samples)
        stops = StopStrings(self.trainer._tokenizer, sampling.stop)
        done = [self._completion(ids, values, stops) for ids, values in zip(token_ids, logprobs)]
        return [done[i : i + samples] for i in range(0, len(done), samples)]

    def _completion(self, ids: list[int], logprobs: list[float], stops: StopStrings) -> Completion:
        return Completion(
            text=self.trainer._tokenizer.decode(ids, skip_special_tokens=True),
            token_ids=tuple(ids),
            finish_reason="stop" if ids[-1] in self.trainer.eos_token_ids or stops(ids) else "length",
            logprobs=tuple(logprobs),
        )
