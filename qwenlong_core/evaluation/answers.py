"""From rows to scored samples: render the prompts, let the engine answer, score what it said.

    row --Prompt--> engine --Answer--> rules and judge --> Sample

The local engines answer batch by batch; batches are a fixed cut of the plan's order, so that what an
interrupted one leaves out is drawn again with the same neighbours. A server answers one request a
sample, and each answer is handed on as it comes.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qwenlong_core.data.prompts import encode, opens_thinking, render_prompt, truncate_middle, user_message
from qwenlong_core.evaluation.evidence import evidence_depth
from qwenlong_core.evaluation.official import official_metrics
from qwenlong_core.evaluation.samples import Sample
from qwenlong_core.generation.engine import Engine, Sampling
from qwenlong_core.generation.load import load_engine
from qwenlong_core.jobs import EvaluateJob
from qwenlong_core.records import Completion, Example, Score
from qwenlong_core.rewards.hybrid import score_completions_sync
from qwenlong_core.rewards.judge import Judge
from qwenlong_core.settings.evaluation import EvaluationSettings
from qwenlong_core.settings.rewards import RewardSettings

_VLLM_BATCH = 256
"""Prompts in one vLLM call: enough to keep its scheduler full, few enough to lose little to a kill."""

_QUESTIONS = 16
"""Questions on one document in one call: the document is then a small part of the work, and a kill loses
no more than these."""

_NO_DOCUMENT = "(The text is not available.)"

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
    prefix: str
    """``<think>`` where the chat template opens the thinking itself, so that the log shows it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the engine gave for one sample."""

    prompt: Prompt
    number: int
    completion: Completion | None
    """``None``: an error of the engine."""
    num_tokens: int
    seconds: float
    error: str = ""

    @property
    def key(self) -> Key:
        """What identifies the sample within an evaluation."""
        return self.prompt.example.id, self.number


def render(tokenizer: Any, example: Example, settings: EvaluationSettings) -> Prompt:
    """The prompt of a row: the document whole, without its middle, or left out."""
    if settings.document == "none":
        shown, lost = replace(example, context=_NO_DOCUMENT), 0
    else:
        shown, _, lost = truncate_middle(tokenizer, example, settings.max_prompt_tokens)
        # What the prepare stage has cut already, to the same limit, is lost as well.
        lost += example.metadata.get("lost_tokens", 0)
    text = render_prompt(tokenizer, shown)
    prefix = "<think>\n" if opens_thinking(text) else ""
    return Prompt(example=example, shown=shown, token_ids=encode(tokenizer, text), lost_tokens=lost, prefix=prefix)


def load_policy_engine(job: EvaluateJob, folder: Path) -> tuple[Engine, Any]:
    """The engine of the settings over the policy in ``folder``, and its tokenizer."""
    from qwenlong_core.models import load_tokenizer

    tokenizer, settings = load_tokenizer(folder), job.evaluation
    if settings.server is not None:
        from qwenlong_core.generation.openai_engine import OpenAIEngine

        return OpenAIEngine(settings.server), tokenizer
    engine = load_engine(
        settings.engine,
        folder,
        tokenizer,
        job.model,
        job.launch,
        batch_size=settings.batch_size,
        longest=settings.max_prompt_tokens + settings.max_completion_tokens,
        setting="evaluation.engine",
        limits="evaluation.max_prompt_tokens + max_completion_tokens",
    )
    return engine, tokenizer


def sampling_of(job: EvaluateJob) -> Sampling:
    """How the job draws its completions."""
    settings = job.evaluation
    return Sampling(settings.temperature, settings.top_p, settings.max_completion_tokens, job.seed, settings.stop)


def answers(
    job: EvaluateJob, engine: Engine, tokenizer: Any, examples: Sequence[Example], missing: set[Key]
) -> Iterator[list[Answer]]:
    """The missing answers, as many together as came together."""
    from qwenlong_core.generation.openai_engine import OpenAIEngine

    if isinstance(engine, OpenAIEngine):
        yield from ([answer] for answer in _served(job, engine, tokenizer, examples, missing))
    else:
        yield from _local(job, engine, tokenizer, examples, missing)


def batches(examples: Sequence[Example], size: int) -> Iterator[list[Example]]:
    """Engine calls: ``size`` rows, and more where they go on with questions on the last row's document.

    The plan has the questions on one document side by side, and an engine runs what the prompts of a call
    have in common once.
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


def _local(
    job: EvaluateJob, engine: Engine, tokenizer: Any, examples: Sequence[Example], missing: set[Key]
) -> Iterator[list[Answer]]:
    settings = job.evaluation
    for batch in batches(examples, _VLLM_BATCH if settings.engine == "vllm" else settings.batch_size):
        wanted = missing & {(example.id, number) for example in batch for number in range(settings.samples)}
        if not wanted:
            continue
        started = time.monotonic()
        prompts = [render(tokenizer, example, settings) for example in batch]
        groups = engine.generate([prompt.token_ids for prompt in prompts], settings.samples, sampling_of(job))
        seconds = (time.monotonic() - started) / (len(batch) * settings.samples)
        found = [
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
        yield [answer for answer in found if answer.key in wanted]


def _served(
    job: EvaluateJob, engine: Any, tokenizer: Any, examples: Sequence[Example], missing: set[Key]
) -> Iterator[Answer]:
    from qwenlong_core.generation.openai_engine import Request

    def requests() -> Iterator[Request[tuple[Prompt, int]]]:
        for example in examples:
            numbers = [number for number in range(job.evaluation.samples) if (example.id, number) in missing]
            prompt = render(tokenizer, example, job.evaluation) if numbers else None
            for number in numbers:
                assert prompt is not None
                chat = engine.settings.endpoint == "chat"
                yield Request((prompt, number), user_message(prompt.shown) if chat else prompt.token_ids, number)

    for reply in engine.replies(requests(), sampling_of(job)):
        prompt, number = reply.key
        tokens = reply.num_tokens
        if tokens is None:
            tokens = len(encode(tokenizer, reply.completion.text)) if reply.completion else 0
        yield Answer(
            prompt=prompt,
            number=number,
            completion=reply.completion,
            num_tokens=tokens,
            seconds=reply.seconds,
            error=reply.error,
        )


def rewards_of(job: EvaluateJob) -> RewardSettings:
    """The rules and the judge of the job."""
    return RewardSettings(number_tolerance=job.number_tolerance, judge=job.evaluation.judge)


def judge_of(job: EvaluateJob) -> Judge | None:
    """The judge of the job, if it has one."""
    return Judge(job.evaluation.judge) if job.evaluation.judge else None


def score_answers(job: EvaluateJob, judge: Judge | None, found: Iterable[Answer]) -> list[Sample]:
    """Samples of the answers, in order; an error of the engine is one, never a score."""
    found = list(found)
    whole = [(answer.prompt, _whole(answer)) for answer in found if answer.completion is not None]
    started = time.monotonic()
    scores = iter(
        score_completions_sync([p.example for p, _ in whole], [c for _, c in whole], rewards_of(job), judge=judge)
    )
    each = (time.monotonic() - started) / len(found) if found else 0.0
    completions = iter(completion for _, completion in whole)
    return [
        (
            _error_sample(job, answer)
            if answer.completion is None
            else _to_sample(job, answer, next(completions), next(scores), answer.seconds + each)
        )
        for answer in found
    ]


def _whole(answer: Answer) -> Completion:
    """The completion with the thinking's opening tag, where the prompt held it."""
    completion = answer.completion
    assert completion is not None
    if completion.text.lstrip().startswith("<think>"):
        return completion
    return replace(completion, text=answer.prompt.prefix + completion.text)


def _error_sample(job: EvaluateJob, answer: Answer) -> Sample:
    nothing = Completion(text="", token_ids=(), finish_reason="stop")
    score = Score(value=None, status="error", reason=answer.error)
    return replace(_to_sample(job, answer, nothing, score, answer.seconds), finish_reason="error")


def _to_sample(job: EvaluateJob, answer: Answer, completion: Completion, score: Score, seconds: float) -> Sample:
    prompt, example = answer.prompt, answer.prompt.example
    return Sample(
        example_id=example.id,
        document_id=example.document_id or example.id,
        domain=example.domain,
        source=example.source,
        sample=answer.number,
        prompt_digest=hashlib.sha256(json.dumps(prompt.token_ids).encode()).hexdigest(),
        prompt_tokens=len(prompt.token_ids),
        lost_tokens=prompt.lost_tokens,
        depth=evidence_depth(example),
        completion=completion.text,
        num_tokens=answer.num_tokens,
        finish_reason=completion.finish_reason,
        score=score,
        metrics=official_metrics(example, score.extracted, job.number_tolerance),
        seconds=round(seconds, 4),
    )
