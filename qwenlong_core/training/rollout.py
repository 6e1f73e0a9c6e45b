"""From drawn prompts to scored groups, the same on every process."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import groupby
from typing import Any

from accelerate.utils import gather_object

from qwenlong_core.data.prompts import encode, opens_thinking, render_prompt
from qwenlong_core.generation.engine import Engine, Sampling
from qwenlong_core.records import Completion, Example, Group, Score
from qwenlong_core.settings.training import Phase
from qwenlong_core.training.dynamic_sampling import Draw

Scorer = Callable[[Sequence[Example], Sequence[Completion]], Coroutine[Any, Any, list[Score]]]
"""Scores ``completions[i]`` against ``examples[i]``. All calls share one event loop, so that a judge's
bound on requests holds over all of them."""


class BackgroundScoring:
    """A scorer on an event loop in a thread of its own: a judge answers while the engine samples on."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="scoring", daemon=True).start()

    def submit(self, examples: Sequence[Example], completions: Sequence[Completion]) -> Future[list[Score]]:
        """Start scoring; the result, or what went wrong, is in the future."""
        return asyncio.run_coroutine_threadsafe(self.scorer(examples, completions), self._loop)


def epoch_seed(seed: int, epoch: int) -> int:
    """Seed of an epoch's draws. Within an epoch no prompt comes twice, and the engine mixes the prompt
    in, so every group has randomness of its own on however many processes it is drawn."""
    digest = hashlib.sha256(f"rollout/{seed}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


class Prompts:
    """The rows of a phase as prompts; each is rendered and tokenized once.

    Args:
        tokenizer: The policy's.
        examples: The rows.
        phase: Its limits.
        context: Tokens the model can hold.

    Raises:
        ValueError: a prompt is over the phase's limit, or does not fit the context with its completion.
    """

    def __init__(self, tokenizer: Any, examples: Sequence[Example], phase: Phase, context: int) -> None:
        self.examples = examples
        texts = [render_prompt(tokenizer, example) for example in examples]
        self.token_ids = [encode(tokenizer, text) for text in texts]
        self.opens_thinking = [opens_thinking(text) for text in texts]
        tokens, longest = max((len(ids), example.id) for ids, example in zip(self.token_ids, examples))
        if tokens > phase.max_prompt_tokens:
            raise ValueError(
                f"prompt {longest!r} has {tokens} tokens, over the phase's max_prompt_tokens={phase.max_prompt_tokens}:"
                " prepare the data again with this phase's limits and this model's tokenizer"
            )
        if tokens + phase.max_completion_tokens > context:
            raise ValueError(
                f"prompt {longest!r} has {tokens} tokens; with max_completion_tokens={phase.max_completion_tokens} that"
                f" is over the model's context of {context}: lower the phase's limits, or raise model.yarn_factor"
            )


class Rollouts:
    """Samples and scores draws.

    Each process takes a contiguous share and all receive every group: completions travel as token
    ids, prompts as row numbers.

    Args:
        prompts: The phase's rows.
        engine: Samples completions; on a process of its own or in step with the others.
        scorer: Called for each part of a round as soon as it is sampled.
        group_size: G.
        sampling: How to draw; its seed is the run's.
        rank: Of this process, of ``processes``.
        one_call: The engine is one that all processes must call equally often, and takes no seed.
        prompts_a_call: Prompts sampled before their completions are given to the scorer; ``None``: all.
    """

    def __init__(
        self,
        prompts: Prompts,
        engine: Engine,
        scorer: Scorer,
        group_size: int,
        sampling: Sampling,
        rank: int,
        processes: int,
        one_call: bool = False,
        prompts_a_call: int | None = None,
    ) -> None:
        self.one_call, self.prompts_a_call = one_call, prompts_a_call
        self.prompts, self.engine, self.scoring = prompts, engine, BackgroundScoring(scorer)
        self.group_size, self.sampling = group_size, sampling
        self.rank, self.processes = rank, processes

    def __call__(self, draws: list[Draw]) -> list[Group]:
        """One group per draw, in order. The number of draws is a multiple of the processes."""
        share = len(draws) // self.processes
        local = self._local(draws[self.rank * share : (self.rank + 1) * share])
        return [
            Group(example=self.prompts.examples[row], completions=completions, scores=scores)
            for row, completions, scores in gather_object(local)
        ]

    def _local(self, draws: list[Draw]) -> list[tuple[int, tuple[Completion, ...], tuple[Score, ...]]]:
        groups: list[list[Completion]] = []
        scoring: list[Future[list[Score]]] = []
        for epoch, part in self._calls(draws):
            sampled = self._sample(epoch, part)
            scoring.append(self._score(part, sampled))
            groups += sampled
        scores = [score for future in scoring for score in future.result()]
        g = self.group_size
        return [
            (draw.row, tuple(group), tuple(scores[i * g : (i + 1) * g]))
            for i, (draw, group) in enumerate(zip(draws, groups))
        ]

    def _calls(self, draws: list[Draw]) -> Iterator[tuple[int, list[Draw]]]:
        """Engine calls, each within an epoch, whose seed it is; one in all for an engine that the
        processes call together, since their shares may cross an epoch's end at different draws."""
        if self.one_call:
            yield draws[0].epoch, draws
            return
        for epoch, members in groupby(draws, key=lambda d: d.epoch):
            part = list(members)
            size = self.prompts_a_call or len(part)
            yield from ((epoch, part[i : i + size]) for i in range(0, len(part), size))

    def _score(self, draws: list[Draw], groups: list[list[Completion]]) -> Future[list[Score]]:
        examples = [self.prompts.examples[draw.row] for draw in draws for _ in range(self.group_size)]
        pairs = zip(draws, groups)
        visible = [self._with_opened_thought(draw.row, c) for draw, group in pairs for c in group]
        return self.scoring.submit(examples, visible)

    def _sample(self, epoch: int, draws: Any) -> list[list[Completion]]:
        assert self.sampling.seed is not None
        sampling = replace(self.sampling, seed=epoch_seed(self.sampling.seed, epoch))
        return self.engine.generate([self.prompts.token_ids[d.row] for d in draws], self.group_size, sampling)

    def _with_opened_thought(self, row: int, completion: Completion) -> Completion:
        """What the scorer reads: a thinking block that the template opened belongs to the answer."""
        if not self.prompts.opens_thinking[row]:
            return completion
        return replace(completion, text="<think>\n" + completion.text)
