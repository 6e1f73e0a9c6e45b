"""Worked solutions from a teacher: ask an OpenAI-compatible endpoint and keep what the reward verifies.

This is rejection sampling. Each question gets several completions, which are scored by the rule alone: a judge
that is talked into a wrong answer would put it into the training data. The shortest correct completion becomes
the example's ``solution``. Every question is counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydantic import Field

from qwenlong_core.data.prompts import user_message
from qwenlong_core.endpoint import api_key
from qwenlong_core.proxies import reached
from qwenlong_core.records import Completion, Example, FinishReason
from qwenlong_core.rewards.hybrid import score_by_rule
from qwenlong_core.settings.base import Block, PlainUrl
from qwenlong_core.settings.rewards import RewardSettings

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.chat.chat_completion import Choice


class TeacherSettings(Block):
    """The teacher's endpoint and its sampling."""

    base_url: PlainUrl
    model: str
    api_key_variable: str | None = None
    """Name of the environment variable that holds the API key."""
    samples: int = Field(4, ge=1)
    """Completions per question."""
    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(0.95, gt=0, le=1)
    max_tokens: int = Field(10_000, ge=1)
    concurrency: int = Field(16, ge=1)
    """Questions asked at the same time."""
    timeout_seconds: float = Field(600.0, gt=0)
    max_retries: int = Field(5, ge=0)


@dataclass(slots=True)
class DistillCounts:
    """Outcome of the questions (``kept + unverified + failed == questions``) and of the samples."""

    questions: int = 0
    kept: int = 0
    unverified: int = 0
    """No sample was correct."""
    failed: int = 0
    """The endpoint returned no completion; see ``last_error``."""
    samples: int = 0
    right: int = 0
    truncated: int = 0
    """Samples that hit ``max_tokens``: never kept."""
    last_error: str = ""
    by_status: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def distill(examples: Iterable[Example], settings: TeacherSettings) -> tuple[list[Example], DistillCounts]:
    """The examples that the teacher solved, in order, with its solutions.

    Raises:
        ValueError: ``api_key_variable`` names a variable that is not set.
        ConnectionError: no question got a completion.
    """
    return asyncio.run(_distill_all(list(examples), settings))


async def _distill_all(examples: list[Example], settings: TeacherSettings) -> tuple[list[Example], DistillCounts]:
    from openai import AsyncOpenAI

    counts = DistillCounts(questions=len(examples))
    slots = asyncio.Semaphore(settings.concurrency)
    async with AsyncOpenAI(
        base_url=reached(settings.base_url),
        api_key=api_key(settings.api_key_variable, "teacher.api_key_variable"),
        timeout=settings.timeout_seconds,
        max_retries=settings.max_retries,
    ) as client:

        async def one(example: Example) -> Example | None:
            async with slots:
                return await _distill_one(client, example, settings, counts)

        solved = await asyncio.gather(*(one(example) for example in examples))
    if examples and counts.failed == len(examples):
        raise ConnectionError(
            f"teacher {settings.model!r} at {settings.base_url} returned no completion for any of {len(examples)}"
            f" questions; last error: {counts.last_error}. Check the URL and the model name"
        )
    return [example for example in solved if example is not None], counts


async def _distill_one(
    client: AsyncOpenAI, example: Example, settings: TeacherSettings, counts: DistillCounts
) -> Example | None:
    import openai

    try:
        reply = await client.chat.completions.create(
            model=settings.model,
            messages=[{"role": "user", "content": user_message(example)}],
            n=settings.samples,
            temperature=settings.temperature,
            top_p=settings.top_p,
            max_tokens=settings.max_tokens,
        )
    except openai.APIError as error:
        counts.failed += 1
        counts.last_error = f"{type(error).__name__}: {error}"
        return None
    right = [text for choice in reply.choices if (text := _verified(example, choice, counts)) is not None]
    if not right:
        counts.unverified += 1
        return None
    counts.kept += 1
    metadata = {
        **example.metadata,
        "teacher": settings.model,
        "teacher_right": len(right),
        "teacher_samples": len(reply.choices),
    }
    return replace(example, solution=min(right, key=len), metadata=metadata)


def _verified(example: Example, choice: Choice, counts: DistillCounts) -> str | None:
    """The sample as a solution if it is complete and its answer is correct, else ``None``."""
    text = choice.message.content or ""
    # Servers with a reasoning parser return the thinking in a separate field.
    reasoning = getattr(choice.message, "reasoning_content", None)
    if reasoning:
        text = f"<think>{reasoning.strip()}</think>\n\n{text.strip()}"
    reason: FinishReason = "length" if choice.finish_reason == "length" else "stop"
    score = score_by_rule(example, Completion(text=text, token_ids=(), finish_reason=reason), RewardSettings()).score
    counts.samples += 1
    counts.truncated += reason == "length"
    counts.by_status[score.status] = counts.by_status.get(score.status, 0) + 1
    is_right = score.rule == 1.0 and reason == "stop"
    counts.right += is_right
    return text.strip() if is_right else None
