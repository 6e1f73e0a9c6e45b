"""Questions go to the model, answers come back: from an engine in this process, or from a server.

    row --render--> Prompt --engine--> Answer        (scored in :mod:`~qwenlong_core.evaluation.scoring`)

:func:`load_answerer` chooses the way once, where the engine is made. A local engine answers batch by batch: batches
are a fixed cut of the plan's order, so what an interrupted one leaves out is drawn again with the same neighbours. A
server answers one request per sample, and each answer is handed on as it arrives.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from qwenlong_core.data.prompts import (
    encode,
    opens_thinking,
    render_prompt,
    served_turns,
    truncate_middle,
)
from qwenlong_core.data.wordings import without_document
from qwenlong_core.evaluation.memory import read_and_answer
from qwenlong_core.generation.engine import Engine, Sampling
from qwenlong_core.generation.load import load_engine
from qwenlong_core.records import Completion, Example
from qwenlong_core.settings.evaluation import EvaluationSettings
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.settings.running import LaunchSettings

if TYPE_CHECKING:
    from qwenlong_core.generation.openai_engine import OpenAIEngine, Request

_VLLM_BATCH = 256
"""Prompts in one vLLM call: enough to keep its scheduler full, few enough that a kill loses little."""

_QUESTIONS = 16
"""Questions on one document in one call: enough that the document is a small part of the work. A kill loses no
more than these."""

Key = tuple[str, int]
"""Id of an example and number of a sample."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A row as the model sees it."""

    example: Example
    shown: Example
    """The row with the document that the prompt holds."""
    token_ids: list[int]
    lost_tokens: int
    """Tokens of the document that were cut."""
    prefix: str
    """``<think>`` where the chat template itself opens the thinking; it goes into the log before the completion."""

    @property
    def digest(self) -> str:
        """SHA-256 of the tokens, by which a log knows its prompts again."""
        return hashlib.sha256(json.dumps(self.token_ids).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the engine returned for one sample."""

    prompt: Prompt
    number: int
    """Number of the sample within its example, from 0."""
    completion: Completion | None
    """``None`` where the engine failed, see ``error``."""
    num_tokens: int
    seconds: float
    error: str = ""

    @property
    def key(self) -> Key:
        """What identifies the sample within an evaluation."""
        return self.prompt.example.id, self.number


class Answerer(Protocol):
    """A way to get answers."""

    @property
    def tokenizer(self) -> Any:
        """The policy's, which renders the prompts."""
        ...

    def answers(self, examples: Sequence[Example], missing: set[Key]) -> Iterator[list[Answer]]:
        """The missing answers to ``examples``, each list as soon as it is there."""
        ...


def render(tokenizer: Any, example: Example, settings: EvaluationSettings) -> Prompt:
    """The prompt of a row, with the whole document, with its middle cut out, or without it."""
    if settings.reader == "memory":  # the whole prompt, by which a log knows the row and its length
        shown, lost = example, example.metadata.get("lost_tokens", 0)
    elif settings.document == "none":
        shown, lost = without_document(example), 0
    else:
        shown, _, lost = truncate_middle(tokenizer, example, settings.max_prompt_tokens)
        # The prepare stage may have cut the document to the same limit before; that is lost as well.
        lost += example.metadata.get("lost_tokens", 0)
    text = render_prompt(tokenizer, shown)
    prefix = "<think>\n" if opens_thinking(text) else ""
    return Prompt(example=example, shown=shown, token_ids=encode(tokenizer, text), lost_tokens=lost, prefix=prefix)


def batches(examples: Sequence[Example], size: int) -> Iterator[list[Example]]:
    """Engine calls of ``size`` rows, extended while the next rows ask about the last row's document.

    The plan puts the questions on one document side by side, and an engine runs once what the prompts of a call
    have in common.
    """
    batch: list[Example] = []
    for example in examples:
        goes_on = bool(batch) and example.context == batch[-1].context and len(batch) < max(size, _QUESTIONS)
        if len(batch) >= size and not goes_on:
            yield batch
            batch = []
        batch.append(example)
    if batch:
        yield batch


@dataclass(frozen=True, kw_only=True)
class LocalAnswerer:
    """Answers from an engine in this process, a batch at a time."""

    engine: Engine
    tokenizer: Any
    settings: EvaluationSettings
    sampling: Sampling

    def answers(self, examples: Sequence[Example], missing: set[Key]) -> Iterator[list[Answer]]:
        """See :class:`Answerer`."""
        size = _VLLM_BATCH if self.settings.engine == "vllm" else self.settings.batch_size
        for batch in batches(examples, size):
            wanted = missing & {(example.id, number) for example in batch for number in range(self.settings.samples)}
            if wanted:
                # The whole batch is drawn, also where a part of it is in the log: the same call, the same draws.
                yield [answer for answer in self._draw(batch) if answer.key in wanted]

    def _draw(self, batch: Sequence[Example]) -> list[Answer]:
        started = time.monotonic()
        prompts = [render(self.tokenizer, example, self.settings) for example in batch]
        groups = self._completions(prompts)
        seconds = (time.monotonic() - started) / (len(batch) * self.settings.samples)
        return [
            Answer(
                prompt=prompt,
                number=number,
                completion=completion,
                num_tokens=len(completion.token_ids),
                seconds=seconds,
            )
            for prompt, group in zip(prompts, groups, strict=True)
            for number, completion in enumerate(group)
        ]

    def _completions(self, prompts: Sequence[Prompt]) -> list[list[Completion]]:
        """The completions of each prompt; those over the limit, which only the memory reader leaves so, are read in
        parts."""
        limit, found = self.settings.max_prompt_tokens, [list[Completion]() for _ in prompts]
        long = [index for index, prompt in enumerate(prompts) if len(prompt.token_ids) > limit]
        fitting = [index for index in range(len(prompts)) if index not in long]
        if fitting:
            ids = [prompts[index].token_ids for index in fitting]
            for index, group in zip(fitting, self.engine.generate(ids, self.settings.samples, self.sampling)):
                found[index] = group
        if long:
            rows = [prompts[index].example for index in long]
            read = read_and_answer(self.engine, self.tokenizer, rows, self.settings, self.sampling)
            for index, group in zip(long, read):
                found[index] = group
        return found


@dataclass(frozen=True, kw_only=True)
class ServerAnswerer:
    """Answers from a server, one request per sample; a request that fails for good is an answer with an error."""

    engine: OpenAIEngine
    tokenizer: Any
    settings: EvaluationSettings
    sampling: Sampling

    def answers(self, examples: Sequence[Example], missing: set[Key]) -> Iterator[list[Answer]]:
        """See :class:`Answerer`; each list holds one answer."""
        for reply in self.engine.replies(self._requests(examples, missing), self.sampling):
            prompt, number = reply.key
            tokens = reply.num_tokens
            if tokens is None:  # not every server counts them
                tokens = len(encode(self.tokenizer, reply.completion.text)) if reply.completion else 0
            yield [
                Answer(
                    prompt=prompt,
                    number=number,
                    completion=reply.completion,
                    num_tokens=tokens,
                    seconds=reply.seconds,
                    error=reply.error,
                )
            ]

    def _requests(self, examples: Sequence[Example], missing: set[Key]) -> Iterator[Request[tuple[Prompt, int]]]:
        from qwenlong_core.generation.openai_engine import Request

        assert self.settings.server is not None
        chat = self.settings.server.endpoint == "chat"
        for example in examples:
            numbers = [number for number in range(self.settings.samples) if (example.id, number) in missing]
            if not numbers:
                continue
            prompt = render(self.tokenizer, example, self.settings)
            # A chat server applies a template of its own; the completions endpoint sees our prompt as it is.
            text = served_turns(self.tokenizer, prompt.shown) if chat else prompt.token_ids
            for number in numbers:
                yield Request((prompt, number), text, number)


def load_answerer(
    settings: EvaluationSettings, policy: Path, model: ModelSettings, launch: LaunchSettings, seed: int
) -> Answerer:
    """The way to get answers that the settings ask for.

    Args:
        settings: Engine or server, limits and sampling.
        policy: Folder of the policy; for a server it gives the tokenizer that counts and cuts.
        model: Precision and attention of a local engine.
        launch: CPU threads and GPUs of a local engine.
        seed: With the prompt it decides every draw.

    Raises:
        ValueError: vLLM is not installed, the limits are over the model's context, or a server's key is not set.
    """
    from qwenlong_core.models import load_tokenizer  # imports transformers, which a finished evaluation never needs

    tokenizer = load_tokenizer(policy)
    sampling = Sampling(settings.temperature, settings.top_p, settings.max_completion_tokens, seed, settings.stop)
    if settings.server is not None:
        from qwenlong_core.generation.openai_engine import OpenAIEngine

        client = OpenAIEngine(settings.server)
        return ServerAnswerer(engine=client, tokenizer=tokenizer, settings=settings, sampling=sampling)
    engine = load_engine(
        settings.engine,
        policy,
        tokenizer,
        model,
        launch,
        batch_size=settings.batch_size,
        longest=settings.max_prompt_tokens + settings.max_completion_tokens,
        setting="evaluation.engine",
        limits="evaluation.max_prompt_tokens + max_completion_tokens",
        vllm_options=settings.vllm_options,
    )
    return LocalAnswerer(engine=engine, tokenizer=tokenizer, settings=settings, sampling=sampling)
