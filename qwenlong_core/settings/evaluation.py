"""Evaluation, promotion and the nightly evaluation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from qwenlong_core.settings.base import Block, Endpoint, Incidental, Name, Share, Stop
from qwenlong_core.settings.rewards import JudgeSettings
from qwenlong_core.settings.vllm import EvaluationOptions


class Server(Block):
    """An OpenAI-compatible server, and how patiently it is asked."""

    base_url: Endpoint
    model: Name
    """The name under which the server offers the model."""
    api_key_variable: str | None = None
    """Name of the environment variable that holds the key; the key itself is never a setting."""
    concurrency: Incidental[int] = Field(32, ge=1)
    """Requests under way at once; each is one completion."""
    timeout_seconds: Incidental[float] = Field(1_800.0, gt=0)
    """For one completion."""
    max_retries: Incidental[int] = Field(5, ge=0)


class ServerSettings(Server):
    """The server that samples the answers of an evaluation."""

    endpoint: Literal["chat", "completions"] = "chat"
    """``chat`` sends the question and the server applies its own chat template; ``completions`` sends
    the rendered prompt as token ids, exactly what the other engines see (vLLM takes it)."""


class EvaluationSettings(Block):
    """Sampling and statistics of the evaluation stage (paper section 3.2 for the sampling)."""

    max_prompt_tokens: int = Field(120_000, ge=128)
    """Longer prompts lose the middle of their document; how much they lost is recorded."""
    document: Literal["whole", "none"] = "whole"
    """``none`` asks every question without its document: what is still answered correctly is memory or luck."""
    reader: Literal["whole", "memory"] = "whole"
    """``memory`` reads a document over ``max_prompt_tokens`` part by part and answers from its notes (QwenLong-L1.5's
    memory agent), where ``whole`` cuts out its middle."""
    chunk: int = Field(32_768, ge=64, le=100_000_000)
    """Tokens of the document in a part; only with ``memory``."""
    memory_tokens: int = Field(1_024, ge=16)
    """Most tokens of the notes, and of what is thought to write them; only with ``memory``."""
    max_completion_tokens: int = Field(10_000, ge=8)
    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(0.95, gt=0, le=1)
    stop: Stop = ()
    samples: int = Field(1, ge=1)
    """Completions per item."""
    limit: int | None = Field(None, ge=1)
    """Items per source and domain; ``None`` takes all."""
    batch_size: int = Field(1, ge=1)
    """Prompts generated together (transformers engine)."""
    engine: Literal["transformers", "vllm", "openai"] = "transformers"
    server: ServerSettings | None = None
    """Required with ``engine = "openai"``, and refused with the others."""
    vllm_options: EvaluationOptions = Field(default_factory=dict)
    """Further arguments of ``vllm.LLM``, such as ``{kv_cache_dtype = "fp8"}``; only with ``engine = "vllm"``."""
    judge: JudgeSettings | None = None
    protocol: Literal["strict", "qwenlong-l1"] = "strict"
    """``qwenlong-l1`` scores the paper's benchmarks also as its released scripts do, beside the strict score."""
    max_unscored_share: Share = 0.1
    """The stage fails if more than this share of answers has no verdict, or no answer from the engine. A retry asks
    for those again."""
    bootstrap_resamples: int = Field(2_000, ge=100)
    confidence: float = Field(0.95, gt=0.5, lt=1)

    @model_validator(mode="after")
    def _each_engine_has_its_own(self) -> EvaluationSettings:
        if (self.engine == "openai") != (self.server is not None):
            raise ValueError("evaluation.engine='openai' and evaluation.server go together: give both or none")
        if self.vllm_options and self.engine != "vllm":
            raise ValueError(
                f"evaluation.vllm_options is set but evaluation.engine={self.engine!r} does not use it: drop one"
            )
        return self

    @model_validator(mode="after")
    def _reader_is_used(self) -> EvaluationSettings:
        if self.reader == "memory":
            if self.server is not None:
                raise ValueError(
                    "evaluation.reader='memory' reads with an engine of its own: drop evaluation.server, or use"
                    " reader='whole'"
                )
            if self.document == "none":
                raise ValueError("evaluation.document='none' leaves nothing to read: use evaluation.reader='whole'")
            return self
        for name in ("chunk", "memory_tokens"):
            if (value := getattr(self, name)) != type(self).model_fields[name].default:
                raise ValueError(
                    f"evaluation.{name}={value} is for reader='memory', and reader='whole' has no use for it: set the"
                    " reader, or drop it"
                )
        return self


class PromotionSettings(Block):
    """When a challenger may take the registry alias ``champion``."""

    margin: float = 0.0
    """The lower bound of the paired interval of the mean gain must lie above this."""
    max_loss: Share = 0.05
    """Largest drop allowed to a benchmark whose score fell significantly. A benchmark is a source, or one domain of a
    source that has several: ``generated-math``."""
    max_loss_of: dict[str, Share] = Field(default_factory=dict)
    """Other margins for single benchmarks: ``{docmath = 0.02}``."""
    loss_confidence: float = Field(0.8, gt=0.5, lt=1)
    """Confidence at which a drop is significant, over all benchmarks together. It is lower than that of the gain: a
    good model that is refused can try again on more items, but a worse model that passes is served."""
    max_unscored_share: Share = 0.02
    """Of either model's answers."""
    max_truncated_share: Share = 0.5
    """Of the challenger's answers. The champion's are not limited: a truncated answer counts as wrong, and a champion
    that rambles must not keep a better model out."""


class NightlySettings(Block):
    """The nightly evaluation of the champion. All other settings, including the limit on unscored answers, are those
    of ``evaluation``."""

    limit: int | None = Field(50, ge=1)
    """Items per source and domain; ``None`` takes all."""
    nights: int = Field(7, ge=1)
    """Tonight is compared with the evaluations of this many calendar nights before it."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Over all benchmarks of one evaluation. A drop must also show under a second seed."""
