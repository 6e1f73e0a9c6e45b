"""Rewards and the judge."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import Field, model_validator

from qwenlong_core.settings.base import Block, Endpoint, Incidental, Name, Share

B = TypeVar("B", bound=Block)


class ServeSettings(Block):
    """A judge that the pipeline serves itself: vLLM beside each stage that asks it, started and stopped with it."""

    gpus: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """GPUs of its own, on the machine that runs the stage; none of the first ones, which the stage's processes take.
    Without any it runs on the CPU, with vLLM's CPU build."""
    python: Name | None = None
    """Interpreter that has vLLM; ``None`` takes ``launch.python``."""
    arguments: tuple[Name, ...] = ()
    """Further arguments of ``vllm serve``, such as ``["--max-model-len", "4096"]``."""
    start_minutes: float = Field(15.0, gt=0)
    """How long it may take to answer after a start. So long a question waits for a judge that is started again."""
    restarts: int = Field(3, ge=0)
    """How often it is started again in a stage if it dies. After that its questions stay without a verdict."""


class JudgeSettings(Block):
    """An OpenAI-compatible model that compares two answers, asked only when the rule fails."""

    base_url: Incidental[Endpoint | None] = None
    """Address of an endpoint; with ``serve`` the pipeline fills it in. No result depends on it: the model's name stands
    for what the judge says."""
    serve: Incidental[ServeSettings | None] = None
    """How the pipeline serves ``model`` itself, a hub id or a folder, in place of an endpoint."""
    model: Name
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
    """Requests under way at once, of all processes of a stage together: each has an equal share."""
    timeout_seconds: Incidental[float] = Field(60.0, gt=0)
    """For one request; a call with its retries is bounded by ``(max_retries + 1)`` times this
    plus the backoff."""
    max_retries: Incidental[int] = Field(5, ge=0)
    cache_dir: Incidental[str | None] = None
    """Folder of the verdict cache; ``None`` asks every time."""
    price_per_million_prompt_tokens: Incidental[float] = Field(0.0, ge=0)
    price_per_million_completion_tokens: Incidental[float] = Field(0.0, ge=0)
    """Both prices are for the cost in the metrics alone."""

    @model_validator(mode="after")
    def _has_one_place(self) -> JudgeSettings:
        if self.base_url is None and self.serve is None:
            raise ValueError("a judge needs base_url, the address of an endpoint, or serve = {}, to be started here")
        return self

    def share(self, rank: int, processes: int) -> JudgeSettings:
        """The settings of one of several processes that ask the judge at once: its part of ``concurrency``."""
        part, over = divmod(self.concurrency, processes)
        return self.model_copy(update={"concurrency": part + (rank < over)})


class EvidenceBonus(Block):
    """A bonus for right answers that show where they come from. Rows without known evidence have none."""

    of: Literal["paragraphs", "entities"]
    """``paragraphs``: F-beta of the paragraphs that the answer cites (LongRLVR's context reward, arXiv 2603.02146); it
    needs ``data.number_paragraphs``. ``entities``: recall of the names on the way to the answer (LongTraceRL's rubric,
    arXiv 2605.31584)."""
    weight: float = Field(0.3, gt=0, le=1)
    """What the best right answer of a group earns beside its 1; the others earn their share of it."""
    beta: float | None = Field(None, gt=0, le=10)
    """How many times as much recall counts as precision; ``None`` is LongRLVR's 2. Only for ``paragraphs``."""

    @property
    def f_beta(self) -> float:
        """``beta``, with its default."""
        return 2.0 if self.beta is None else self.beta

    @model_validator(mode="after")
    def _beta_is_used(self) -> EvidenceBonus:
        if self.beta is not None and self.of == "entities":
            raise ValueError(
                f"rewards.evidence.beta={self.beta} is for of='paragraphs'; entities count by recall alone: drop it"
            )
        return self


class RewardSettings(Block):
    """``max(rule, judge) + length_penalty``, and in training the bonus for evidence."""

    number_tolerance: float = Field(0.0015, ge=0, lt=1)
    """Relative tolerance of the number rule (DocMath-Eval's 0.15%); sign and magnitude count."""
    judge: JudgeSettings | None = None
    evidence: EvidenceBonus | None = None
    """Added to the rewards of training, never to an evaluation's; ``None`` adds nothing (the paper)."""
    max_unscored_share: Share = 0.2
    """The run stops, with the last error, if more than this share of a step's completions is unscored."""
    max_judge_only_share: Share = 0.5
    """The run stops if more than this share of rewards was given by the judge alone: the first sign of a policy that
    learned to please the judge."""


def with_judge_at(block: B, url: str) -> B:
    """Settings, or a job, with the address of the judge that was started for them."""
    if isinstance(block, JudgeSettings):
        return block if block.serve is None else block.model_copy(update={"base_url": url})
    changed = {name: with_judge_at(value, url) for name, value in block if isinstance(value, Block)}
    return block.model_copy(update=changed)
