"""Where rows come from."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from qwenlong_core.settings.base import Block, Share, Strings


class LengthBucket(Block):
    """So many generated rows with prompts of ``min_tokens..max_tokens`` policy tokens."""

    min_tokens: int = Field(ge=128)
    max_tokens: int = Field(ge=128)
    rows: int = Field(ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> LengthBucket:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens={self.min_tokens} > max_tokens={self.max_tokens}: swap them")
        return self


class DataSettings(Block):
    """Where training and evaluation rows come from.

    A source is ``generated``, a path or glob of JSONL files in the uniform record, or
    ``NAME:PATH_OR_HUB_ID`` with a named source such as ``docqa-rl:Tongyi-Zhiwen/DocQA-RL-1.6K``.
    """

    sft: Strings = ("generated",)
    """Rows with a worked solution to imitate."""
    train: Strings = ("generated",)
    eval: Strings = ("generated",)
    generate_sft: tuple[LengthBucket, ...] = ()
    generate_train: tuple[LengthBucket, ...] = ()
    generate_eval: tuple[LengthBucket, ...] = ()
    """Generated rows by length, used where ``generated`` is among the sources."""
    near_duplicates: Annotated[float, Field(gt=0, le=1)] | None = 0.9
    """Similarity (Jaccard, of runs of eight words) from which two documents count as nearly the same;
    ``None`` looks for exact duplicates only."""
    max_refused_share: Share = 0.0
    """Over this share of unreadable rows the prepare stage fails instead of going on. The default
    accepts none, so that a broken file is seen before anything is trained."""
