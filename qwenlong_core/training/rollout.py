"""From drawn prompts to scored groups, the same on every process."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from array import array
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
"""Scores ``completions[i]`` against ``examples[i]``. All calls run on one event loop, so that a judge's
limit on concurrent requests holds over all of them."""


class BackgroundScoring:
    """Runs a scorer on an event loop in its own thread, so that a judge answers while the engine samples."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="scoring", daemon=True).start()

    def submit(self, examples: Sequence[Example], completions: Sequence[Completion]) -> Future[list[Score]]:
        """Start scoring; the future holds the scores or the error."""
        return asyncio.run_coroutine_threadsafe(self.scorer(examples, completions), self._loop)


def epoch_seed(seed: int, epoch: int) -> int:
    """Seed of an epoch's draws.

    The engine mixes each prompt into its seed, and within an epoch no prompt is drawn twice. So every
    group has its own randomness, and it does not depend on the number of processes.
    """
    digest = hashlib.sha256(f"rollout/{seed}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


class Prompts:
    """The rows of a phase as prompts, each rendered and tokenized once.

    Args:
        tokenizer: The policy's.
        examples: The rows.
        phase: Its limits on tokens.
        context: Tokens that the model can hold.

    Raises:
        ValueError: a prompt is over the phase's limit, or does not fit the context with its completion.
    """

    def __init__(self, tokenizer: Any, examples: Sequence[Example], phase: Phase, context: int) -> None:
        self.examples = examples
        texts = [render_prompt(tokenizer, example) for example in examples]
        # Arrays, since a list takes nine times the memory: 800 prompts of 90,000 tokens would be 2.6 GB a process.
        self.token_ids = [array("i", encode(tokenizer, text)) for text in texts]
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

    Each process samples a contiguous share of the draws, and all processes receive every group.
    Completions are exchanged as token ids, prompts as row numbers.

    Args:
        prompts: The phase's rows.
        engine: Samples completions, either on each process by itself or on all processes together.
        scorer: Called with the completions of each engine call as soon as they are sampled.
        group_size: G, completions per prompt.
        sampling: How to sample; its seed is the run's.
        rank: Number of this process.
        processes: How many processes there are.
        one_call: Whether all processes must call the engine equally often. Such an engine takes no seed.
        prompts_a_call: Prompts per engine call; ``None`` samples all of a round in one call.
    """

    def __init__(
        self,
        prompts: Prompts,
        engine: Engine,
        scorer: Scorer,
        *,
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
        """One group per draw, in order; every process passes the same draws.

        Args:
            draws: Their number is a multiple of the processes.
        """
        share = len(draws) // self.processes
        local = self._sampled_and_scored(draws[self.rank * share : (self.rank + 1) * share])
        return [
            Group(example=self.prompts.examples[row], completions=completions, scores=scores)
            for row, completions, scores in gather_object(local)
        ]

    def _sampled_and_scored(self, draws: list[Draw]) -> list[tuple[int, tuple[Completion, ...], tuple[Score, ...]]]:
        """This process's share: row, completions and scores of each draw."""
        groups: list[list[Completion]] = []
        scoring: list[Future[list[Score]]] = []
        for epoch, call in self._calls(draws):
            sampled = self._sample(epoch, call)
            scoring.append(self._score(call, sampled))
            groups += sampled
        scores = [score for future in scoring for score in future.result()]
        g = self.group_size
        return [
            (draw.row, tuple(group), tuple(scores[i * g : (i + 1) * g]))
            for i, (draw, group) in enumerate(zip(draws, groups))
        ]

    def _calls(self, draws: list[Draw]) -> Iterator[tuple[int, list[Draw]]]:
        """The draws of each engine call with their epoch, which decides the call's seed."""
        if self.one_call:
            # The shares of two processes may cross the end of an epoch at different draws, and the
            # processes would then call the engine a different number of times.
            yield draws[0].epoch, draws
            return
        for epoch, members in groupby(draws, key=lambda d: d.epoch):
            of_epoch = list(members)
            size = self.prompts_a_call or len(of_epoch)
            yield from ((epoch, of_epoch[i : i + size]) for i in range(0, len(of_epoch), size))

    def _score(self, draws: list[Draw], groups: list[list[Completion]]) -> Future[list[Score]]:
        examples = [self.prompts.examples[draw.row] for draw in draws for _ in range(self.group_size)]
        pairs = zip(draws, groups)
        visible = [self._with_opened_thought(draw.row, c) for draw, group in pairs for c in group]
        return self.scoring.submit(examples, visible)

    def _sample(self, epoch: int, draws: list[Draw]) -> list[list[Completion]]:
        assert self.sampling.seed is not None
        sampling = replace(self.sampling, seed=epoch_seed(self.sampling.seed, epoch))
        return self.engine.generate([self.prompts.token_ids[d.row] for d in draws], self.group_size, sampling)

    def _with_opened_thought(self, row: int, completion: Completion) -> Completion:
        """The completion as the scorer reads it, with the thinking tag that the chat template has opened."""
        if not self.prompts.opens_thinking[row]:
            return completion
        return replace(completion, text="<think>\n" + completion.text)
