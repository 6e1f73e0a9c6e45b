"""Rewards and the judge."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from qwenlong_core.settings.base import Block, Incidental, PlainUrl, Share


class JudgeSettings(Block):
    """An OpenAI-compatible endpoint that compares two answers, asked only when the rule fails."""

    base_url: PlainUrl
    model: str
    api_key_variable: str | None = None
    """Name of the environment variable that holds the key; the key itself is never a setting."""
    temperature: float = Field(0.0, ge=0)
    seed: int | None = None
    max_tokens: int = Field(256, ge=16)
    """Tokens of one reply, a judge's thoughts included: two sentences and the verdict need 256, thoughts thousands."""
    reasoning_model: bool = False
    """The names that OpenAI's reasoning models ask for: the limit is sent as ``max_completion_tokens``, and no
    temperature, which they refuse."""
    reasoning_effort: Annotated[str, Field(min_length=1)] | None = None
    """Sent as it is: ``low``, ``medium`` ..., whatever the endpoint knows; ``None`` sends none."""
    concurrency: Incidental[int] = Field(64, ge=1)
    """Requests under way at once."""
    timeout_seconds: Incidental[float] = Field(60.0, gt=0)
    """For one request; a call with its retries is bounded by ``(max_retries + 1)`` times this
    plus the backoff."""
    max_retries: Incidental[int] = Field(5, ge=0)
    cache_dir: Incidental[str | None] = None
    """Folder of the verdict cache; ``None`` asks every time."""
    price_per_million_prompt_tokens: Incidental[float] = Field(0.0, ge=0)
    price_per_million_completion_tokens: Incidental[float] = Field(0.0, ge=0)
    """Both prices are for the cost in the metrics alone."""


class RewardSettings(Block):
    """``max(rule, judge) + length_penalty``."""

    number_tolerance: float = Field(0.0015, ge=0, lt=1)
    """Relative tolerance of the number rule (DocMath-Eval's 0.15%); sign and magnitude count."""
    judge: JudgeSettings | None = None
    max_unscored_share: Share = 0.2
    """The run stops, with the last error, if more than this share of a step's completions is unscored."""
    max_judge_only_share: Share = 0.5
    """The run stops if more than this share of rewards was given by the judge alone: the first sign of a policy that
    learned to please the judge."""
