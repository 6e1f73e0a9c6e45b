"""Ask a teacher for several answers to each question; every answer is written down as it comes.

The log belongs to the teacher and its sampling, not to a run. An answer that is in it is never asked for again: after a
kill only the requests under way are lost, and a run with other filters, or over more questions, asks for what is new.
A request that fails leaves nothing in the log, so that a server's failure is never mistaken for a wrong answer.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from pydantic import TypeAdapter, ValidationError

from qwenlong_core.data.prompts import served_message, user_message
from qwenlong_core.generation.engine import Sampling
from qwenlong_core.generation.openai_engine import OpenAIEngine, Reply, Request
from qwenlong_core.records import Example, FinishReason
from qwenlong_core.settings.distill import TeacherSettings
from qwenlong_core.store.files import digest_json, drop_cut_line, write_json

_FAILURES_IN_A_ROW = 8
"""Failed requests after which a teacher counts as down; with more under way at once, as many as those."""

Key = tuple[str, int]
"""Digest of a message, and number of the sample."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One answer of the teacher: a line of the log."""

    id: str
    """The row that was first asked about; the message is what identifies the question."""
    message: str
    """SHA-256 of the message that was sent."""
    sample: int
    text: str
    finish_reason: FinishReason
    prompt_tokens: int | None
    """As the server counted, and ``None`` where it does not."""
    completion_tokens: int | None


_ANSWER = TypeAdapter(Answer)


class AnswerLog:
    """The answers of one teacher under one sampling. As a context manager it is this process's alone.

    Memory holds the places of the lines, not their texts.

    Args:
        path: The file; its folder is made if needed.

    Raises:
        ValueError: a line is not an answer.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._places: dict[Key, int] = {}

    def __enter__(self) -> Self:
        self._file = self._path.open("ab+")
        # A second run with the same teacher waits here, and then finds the answers.
        fcntl.flock(self._file, fcntl.LOCK_EX)
        drop_cut_line(self._path)
        self._file.seek(0)
        place = 0
        for number, line in enumerate(self._file, 1):
            answer = self._read(line, number)
            self._places.setdefault((answer.message, answer.sample), place)
            place += len(line)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _read(self, line: bytes, number: int) -> Answer:
        try:
            return _ANSWER.validate_json(line)
        except ValidationError as error:
            raise ValueError(
                f"{self._path}:{number} is not an answer ({error.errors()[0]['msg']}): delete the line, and its "
                "question is asked again"
            ) from error

    def __contains__(self, key: Key) -> bool:
        return key in self._places

    def append(self, answer: Answer) -> None:
        """Write an answer down; it survives a kill of this process once this returns."""
        self._places[answer.message, answer.sample] = self._file.seek(0, 2)
        self._file.write(json.dumps(asdict(answer), ensure_ascii=False).encode() + b"\n")
        self._file.flush()

    def answers(self, message: str, samples: int) -> list[Answer]:
        """The answers to a message that are there, in the order of their numbers."""
        found = []
        for number in range(samples):
            if (place := self._places.get((message, number))) is not None:
                self._file.seek(place)
                found.append(_ANSWER.validate_json(self._file.readline()))
        return found


def answer_log(folder: Path, teacher: TeacherSettings, seed: int) -> AnswerLog:
    """The log of this teacher and sampling in ``folder``; a JSON file beside it says which these are."""
    sampling = {"base_url", "model", "temperature", "top_p", "max_tokens"}
    asked = teacher.model_dump(include=sampling) | {"seed": seed}
    path = folder / f"{digest_json(asked)[:16]}.jsonl"
    log = AnswerLog(path)
    write_json(path.with_suffix(".json"), asked)
    return log


class Question(NamedTuple):
    """A row, and the SHA-256 of the message that asks it."""

    example: Example
    digest: str


def message_of(tokenizer: Any, example: Example) -> str:
    """The message that asks a row. The policy's control tokens in its document are broken: a server would read them."""
    return served_message(tokenizer, user_message(example))


def as_question(tokenizer: Any, example: Example) -> Question:
    """The row with the digest of its message."""
    return Question(example, hashlib.sha256(message_of(tokenizer, example).encode()).hexdigest())


def missing_keys(questions: Iterable[Question], log: AnswerLog, samples: int) -> list[tuple[Question, int]]:
    """What has to be asked: a message that several rows share is asked once."""
    wanted = {(q.digest, n): (q, n) for q in questions for n in range(samples)}
    return [asked for key, asked in wanted.items() if key not in log]


def ask(
    missing: Sequence[tuple[Question, int]],
    tokenizer: Any,
    teacher: TeacherSettings,
    seed: int,
    log: AnswerLog,
    on_answer: Callable[[Question, Answer], None],
) -> tuple[int, str]:
    """Send the missing requests, as many at once as ``concurrency`` says, and log the answers as they arrive.

    Returns:
        The number of requests that got no completion, and the last error.

    Raises:
        ValueError: the teacher's key is not set.
        ConnectionError: so many requests in a row failed that the teacher counts as down. The answers so far are kept.
    """
    engine = OpenAIEngine(teacher, "distill.teacher")
    sampling = Sampling(teacher.temperature, teacher.top_p, teacher.max_tokens, seed)
    tolerated = max(_FAILURES_IN_A_ROW, teacher.concurrency)
    in_a_row, failed, last = 0, 0, ""
    for reply in engine.replies(_requests(missing, tokenizer), sampling):
        answer = _answer(reply)
        if answer is not None:
            in_a_row = 0
            log.append(answer)
            on_answer(reply.key[0], answer)
            continue
        in_a_row, failed, last = in_a_row + 1, failed + 1, reply.error
        if in_a_row >= tolerated:
            raise ConnectionError(
                f"teacher {teacher.model!r}: the last {in_a_row} requests all failed, such as: {last}. Mend the server "
                "or distill.teacher and run again: the answers so far are kept"
            )
    return failed, last


def _requests(missing: Sequence[tuple[Question, int]], tokenizer: Any) -> Iterator[Request[tuple[Question, int]]]:
    for question, number in missing:
        yield Request((question, number), message_of(tokenizer, question.example), number)


def _answer(reply: Reply[tuple[Question, int]]) -> Answer | None:
    if reply.completion is None:
        return None
    question, number = reply.key
    return Answer(
        id=question.example.id,
        message=question.digest,
        sample=number,
        text=reply.completion.text,
        finish_reason=reply.completion.finish_reason,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.num_tokens,
    )
