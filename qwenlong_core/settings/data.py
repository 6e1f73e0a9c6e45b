"""Where rows come from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from qwenlong_core.records import Domain
from qwenlong_core.settings.base import Block, Name, Share, Strings

SFTRows = Literal["solutions", "questions", "none"]
"""What the rows of ``data.sft`` are for: their own solutions are imitated, or they are questions for a teacher or a
file of traces, or nothing, because there is neither and SFT is skipped."""


class LengthBucket(Block):
    """Generated rows with prompts of ``min_tokens`` to ``max_tokens`` tokens, by the policy's tokenizer."""

    min_tokens: int = Field(ge=128)
    max_tokens: int = Field(ge=128)
    rows: int = Field(ge=1)
    kinds: dict[Domain, Annotated[tuple[Name, ...], Field(min_length=1)]] = Field(default_factory=dict)
    """Forms of question by domain, each equally often; a domain that is not named takes all of its forms."""

    @model_validator(mode="after")
    def _ordered(self) -> LengthBucket:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens={self.min_tokens} > max_tokens={self.max_tokens}: swap them")
        return self


class RulerSettings(Block):
    """How many rows of RULER are made, and how long. The source ``ruler:FOLDER`` says where copies of its texts are."""

    lengths: Annotated[tuple[Annotated[int, Field(ge=512, le=262_144)], ...], Field(min_length=1)] | None = None
    """Tokens of prompt and answer together; ``None`` takes those of RULER's tables (4,096, doubled up to 131,072) that
    fit ``evaluation.max_prompt_tokens``. A given one that does not fit is refused."""
    rows: int = Field(20, ge=1)
    """Of each task at each length; the published tables have 500."""


class DataSettings(Block):
    """Where training and evaluation rows come from.

    A source is ``generated``, ``ruler`` or ``ruler:FOLDER`` (in ``eval``), a path or glob of JSONL files in the uniform
    record, or ``NAME:PATH_OR_HUB_ID`` with a named source such as ``docqa-rl:Tongyi-Zhiwen/DocQA-RL-1.6K``.
    """

    sft: Strings = ("generated",)
    """Rows with a worked solution to imitate; with ``distill``, the questions that traces are wanted for."""
    train: Strings = ("generated",)
    eval: Strings = ("generated",)
    benchmarks_dir: Annotated[str, Field(min_length=1)] | None = None
    """Folder of copies of the hub's data sets, each in ``OWNER/NAME`` below it. The hub ids of ``eval`` are then read
    there, never on the hub."""
    generate_sft: tuple[LengthBucket, ...] = ()
    generate_train: tuple[LengthBucket, ...] = ()
    generate_eval: tuple[LengthBucket, ...] = ()
    """Generated rows by length, used where ``generated`` is among the sources."""
    ruler: RulerSettings = RulerSettings()
    prompt_form: Literal["brackets", "paper"] = "brackets"
    """How the prompt writes the place of the answer: ``[insert answer here]``, or the paper's
    ``(insert answer here)``."""
    number_paragraphs: bool = False
    """Number the paragraphs of documents and ask for those that the answer rests on, in training and evaluation."""
    near_duplicates: Annotated[float, Field(gt=0, le=1)] | None = 0.9
    """Two documents with at least this Jaccard similarity of their runs of eight words are near-duplicates; ``None``
    looks for exact duplicates only."""
    max_refused_share: Share = 0.0
    """The prepare stage fails if more than this share of rows is unreadable. The default accepts none, so that a
    broken file is noticed before anything is trained."""

    @model_validator(mode="after")
    def _ruler_is_for_evaluation(self) -> DataSettings:
        for split in ("sft", "train"):
            if named := [spec for spec in getattr(self, split) if spec.partition(":")[0] == "ruler"]:
                raise ValueError(
                    f"data.{split} names {named[0]!r}: RULER pays for every name that occurs in an answer, so it is no"
                    " reward; name it in data.eval"
                )
        return self
