"""Worked solutions for SFT from a teacher, or from files of traces."""

from __future__ import annotations

from pydantic import Field, model_validator

from qwenlong_core.settings.base import Block, Incidental, Name, Share, Strings
from qwenlong_core.settings.evaluation import Server


class TeacherSettings(Server):
    """A server that solves the questions, and its sampling."""

    samples: int = Field(4, ge=1)
    """Completions per question, one request each."""
    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(0.95, gt=0, le=1)
    max_tokens: int = Field(10_000, ge=1)
    price_per_million_prompt_tokens: Incidental[float] = Field(0.0, ge=0)
    price_per_million_completion_tokens: Incidental[float] = Field(0.0, ge=0)
    """Both prices are for the cost in the counts, in the teacher's currency."""


class DistillSettings(Block):
    """SFT imitates traces that the reward's rule verified, and never a generated template (paper section 3.2).

    The questions are the rows of ``data.sft``. Without ``teacher`` and ``traces`` there is nothing to imitate, and SFT
    is skipped.
    """

    teacher: TeacherSettings | None = None
    traces: Strings = ()
    """Files of traces that were sampled before (JSONL, JSON, CSV, TSV or parquet), in place of a teacher. Each record
    has ``trace``, a text or a list of texts, and the ``id`` or the ``question`` of a row of ``data.sft``."""
    max_prompt_tokens: int = Field(16_000, ge=128)
    """Longest prompt that a trace is wanted for; longer ones are dropped and counted."""
    keep_per_question: int = Field(1, ge=1)
    """Verified traces kept of one question, the shortest first."""
    min_trace_tokens: int = Field(1, ge=1)
    max_trace_tokens: int = Field(10_000, ge=1)
    """Shortest and longest trace that is kept, in the policy's tokens; prompt and trace together must also fit
    ``sft.max_tokens``."""
    max_repeated_share: Share = 0.3
    """A trace that goes in circles is not kept: one in which more than this share of the runs of 16 tokens occurred
    before."""
    max_failed_share: Share = 0.05
    """The stage fails if more than this share of the requests got no completion. A retry asks only for those."""
    answers_dir: Incidental[Name] = ".qwenlong/teacher"
    """Folder of the teacher's answers. Each is written down as it comes, and asked for once: a killed stage goes on
    from here, and other filters cost nothing. Delete the folder to ask anew."""

    @model_validator(mode="after")
    def _one_source(self) -> DistillSettings:
        if self.teacher is not None and self.traces:
            raise ValueError(
                "distill.teacher and distill.traces exclude each other: traces replace a teacher; drop one"
            )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> DistillSettings:
        if self.min_trace_tokens > self.max_trace_tokens:
            raise ValueError(
                f"distill.min_trace_tokens={self.min_trace_tokens} is over distill.max_trace_tokens="
                f"{self.max_trace_tokens}: swap them"
            )
        if self.teacher is not None and self.keep_per_question > self.teacher.samples:
            raise ValueError(
                f"distill.keep_per_question={self.keep_per_question} is more than distill.teacher.samples="
                f"{self.teacher.samples}: raise samples, or keep fewer"
            )
        return self
