"""vLLM as TRL runs it, as an engine for rollouts."""

from __future__ import annotations

from collections.abc import Sequence

from qwenlong_core.generation.engine import Sampling
from qwenlong_core.generation.stopping import StopStrings
from qwenlong_core.records import Completion
from qwenlong_core.training.trainer import LongContextGRPOTrainer


class TrainerEngine:
    """vLLM colocated or as a server. TRL gives it the trainer's weights before the first call of a step."""

    def __init__(self, trainer: LongContextGRPOTrainer) -> None:
        self.trainer = trainer

    def generate(self, prompts: Sequence[Sequence[int]], samples: int, sampling: Sampling) -> list[list[Completion]]:
        """See :class:`qwenlong_core.generation.engine.Engine`.

        Of ``sampling`` only the stop strings are used: TRL has told vLLM the rest when the trainer was built.
        """
        # With n=G (see vllm_sampling in arguments.py) vLLM gets each prompt once, otherwise once per completion.
        per_request = (self.trainer.args.generation_kwargs or {}).get("n", 1)
        # One list, repeated: TRL sends the requests to other processes, and pickle writes an object once.
        requests = [ids for ids in map(list, prompts) for _ in range(samples // per_request)]
        # TRL 1.16 has no public call for this step alone.
        token_ids, logprobs = self.trainer._generate_single_turn(requests, None, {}, samples)
        stops = StopStrings(self.trainer.processing_class, sampling.stop)
        done = [self._completion(ids, values, stops) for ids, values in zip(token_ids, logprobs)]
        return [done[i : i + samples] for i in range(0, len(done), samples)]

    def _completion(self, ids: list[int], logprobs: list[float], stops: StopStrings) -> Completion:
        return Completion(
            text=self.trainer.processing_class.decode(ids, skip_special_tokens=True),
            token_ids=tuple(ids),
            finish_reason="stop" if ids[-1] in self.trainer.eos_token_ids or stops(ids) else "length",
            logprobs=tuple(logprobs),
        )
