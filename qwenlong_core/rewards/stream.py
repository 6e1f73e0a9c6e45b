"""Score JSONL as a stream: in order, on all cores, with memory that does not grow with the input.

Each line ``{"id", "answers", "completion", "answer_type"?, "choices"?, ...}`` (:class:`ScoreRow`) gives one dict with
the score, or with ``"status": "error"`` and the reason. A bad line never stops the others.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from itertools import islice
from typing import Any, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from qwenlong_core.records import AnswerType, Domain, Example
from qwenlong_core.rewards.hybrid import RuleStage, judged, score_text
from qwenlong_core.rewards.infer import infer_answer_type
from qwenlong_core.rewards.judge import Judge
from qwenlong_core.rewards.length import LengthLimits, length_penalty

MAX_LINE_BYTES = 8 * 2**20
"""A longer line is an error, so that a single line cannot fill the memory."""
_CHUNK_LINES = 512
_CHUNK_BYTES = 4 * 2**20
# Enough to keep the processes busy, few enough to keep memory bounded.
_CHUNKS_AHEAD_PER_WORKER = 2

_DOMAIN: dict[str, Domain] = {"number": "math", "choice": "logical"}


class ScoreRow(BaseModel):
    """One input line. Keys that mean nothing here are left alone, but one that looks misspelt is refused, since it
    would change the score."""

    # strict: "32" and 32, or 1 and true, are different answers.
    model_config = ConfigDict(extra="allow", strict=True)

    id: str | int
    answers: list[str] = Field(min_length=1)
    completion: str
    answer_type: AnswerType | None = None
    """If it is missing, it is inferred as for data."""
    domain: str = "math"
    """For that alone: golds of digits are numbers in the domain ``math``, and names elsewhere."""
    choices: list[str] = []
    question: str = ""
    """Shown to the judge; its wording also tells which unit a number is asked in."""
    answer_scale: str | None = None
    """Scale that belongs to the golds (type ``number``) but is not in their text."""
    completion_tokens: int | None = Field(None, ge=0)
    """Required if length limits are given."""
    finish_reason: Literal["stop", "length"] = "stop"

    @model_validator(mode="after")
    def _no_key_is_misspelt(self) -> ScoreRow:
        for key in self.model_extra or {}:
            if close := get_close_matches(key.lower(), type(self).model_fields, n=1, cutoff=0.8):
                raise ValueError(f"the key {key!r} looks like {close[0]!r} misspelt: correct or drop it")
        return self

    def example(self) -> Example:
        kind = self.answer_type or infer_answer_type(self.domain, tuple(self.answers), tuple(self.choices))
        return Example(
            id=str(self.id),
            source="score",
            domain=_DOMAIN.get(kind, "multihop"),
            answer_type=kind,
            context="",
            question=self.question,
            answers=tuple(self.answers),
            choices=tuple(self.choices),
            metadata={"answer_scale": self.answer_scale} if self.answer_scale else {},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    """A line after the rule stage: a stage or an error."""

    id: Any
    number: int
    stage: RuleStage | None = None
    error: str = ""


def score_stream(
    source: BinaryIO,
    number_tolerance: float,
    limits: LengthLimits | None = None,
    judge: Judge | None = None,
    workers: int | None = None,
) -> Iterator[dict[str, Any]]:
    """One result per line of ``source``, in order; blank lines are skipped.

    Args:
        source: JSONL as bytes.
        number_tolerance: Relative tolerance of the number rule.
        limits: ``L_max`` and ``L_cache``; ``None`` gives no length penalty.
        judge: ``None`` scores by rule alone.
        workers: Processes of the rule stage; ``None`` takes every core that this process may use.
    """
    rule = partial(_rule_chunk, number_tolerance=number_tolerance, limits=limits)
    chunks = _chunks(numbered_lines(source))
    with asyncio.Runner() as runner:
        for lines in _in_order(rule, chunks, workers or len(os.sched_getaffinity(0))):
            # While the judge is asked about one chunk, the processes score the next ones.
            stages = [line.stage for line in lines if line.stage]
            scores = iter(runner.run(judged(stages, judge)))
            for line in lines:
                yield _error_row(line) if line.stage is None else _score_row(line.id, next(scores))
        if judge is not None:
            runner.run(judge.close())


def numbered_lines(source: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and bytes of each line that is not blank; an over-long line is cut one byte over the limit."""
    number = 0
    while line := source.readline(MAX_LINE_BYTES + 1):
        number += 1
        part = line
        while len(part) > MAX_LINE_BYTES and not part.endswith(b"\n"):
            part = source.readline(MAX_LINE_BYTES + 1)  # skip the rest of the line without keeping it
        if line.strip():
            yield number, line


def _chunks(lines: Iterator[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    chunk: list[tuple[int, bytes]] = []
    size = 0
    for number, line in lines:
        chunk.append((number, line))
        size += len(line)
        if len(chunk) >= _CHUNK_LINES or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _in_order(
    rule: partial[list[_Line]], chunks: Iterable[list[tuple[int, bytes]]], workers: int
) -> Iterator[list[_Line]]:
    """Map chunks over processes, with a bounded number of them in flight."""
    if workers == 1:
        yield from map(rule, chunks)
        return
    chunks = iter(chunks)
    with ProcessPoolExecutor(workers) as pool:
        ahead: deque[Future[list[_Line]]] = deque()
        for chunk in islice(chunks, workers * _CHUNKS_AHEAD_PER_WORKER):
            ahead.append(pool.submit(rule, chunk))
        while ahead:
            done = ahead.popleft().result()
            ahead.extend(pool.submit(rule, chunk) for chunk in islice(chunks, 1))
            yield done


def _rule_chunk(chunk: list[tuple[int, bytes]], number_tolerance: float, limits: LengthLimits | None) -> list[_Line]:
    return [_rule_line(number, line, number_tolerance, limits) for number, line in chunk]


def _rule_line(number: int, line: bytes, number_tolerance: float, limits: LengthLimits | None) -> _Line:
    row: Any = None
    try:
        if len(line) > MAX_LINE_BYTES:
            raise ValueError(f"the line is longer than {MAX_LINE_BYTES:,} bytes")
        row = json.loads(line)
        checked = ScoreRow.model_validate(row)
        penalty = _penalty(checked.completion_tokens, limits)
        truncated = checked.finish_reason == "length"
        stage = score_text(checked.example(), checked.completion, number_tolerance, penalty, truncated)
        return _Line(id=checked.id, number=number, stage=stage)
    except ValidationError as error:
        return _Line(id=_id_of(row), number=number, error="; ".join(_problem(e) for e in error.errors()))
    except (ValueError, RecursionError) as error:  # invalid JSON or UTF-8, unusable gold, no token count
        return _Line(id=_id_of(row), number=number, error=str(error))


def _penalty(tokens: int | None, limits: LengthLimits | None) -> float:
    if limits is None:
        return 0.0
    if tokens is None:
        raise ValueError('length limits are given but the line has no "completion_tokens"')
    return length_penalty(tokens, limits.max_tokens, limits.cache_tokens)


def _problem(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "line"
    if error["type"] == "missing":
        return f"the key {where!r} is missing"
    return f"{where}: {error['msg']} (got {repr(error['input'])[:60]})"


def _id_of(row: Any) -> Any:
    return row["id"] if isinstance(row, dict) and isinstance(row.get("id"), str | int) else None


def _score_row(row_id: Any, score: Any) -> dict[str, Any]:
    return {
        "id": row_id,
        "value": score.value,
        "rule": score.rule,
        "judge": score.judge,
        "length_penalty": score.length_penalty,
        "extracted": score.extracted,
        "status": score.status,
        "reason": score.reason,
    }


def _error_row(line: _Line) -> dict[str, Any]:
    row = dict.fromkeys(("id", "value", "rule", "judge", "length_penalty", "extracted"))
    return {**row, "id": line.id, "status": "error", "reason": f"line {line.number}: {line.error}"}
