"""Count the tokens of whole prompts, in batches on all cores, and fit rows to their limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from qwenlong_core.data.prompts import as_completion, count_tokens, prompt_tokens, render_prompt, truncate_middle
from qwenlong_core.data.splits import Row, Split

_BATCH_CHARACTERS = 4_000_000
_BATCH_ROWS = 1_024

T = TypeVar("T")


class Measured(NamedTuple):
    """A row with the token counts of its prompt (``num_tokens``) and its solution."""

    row: Row
    solution_tokens: int | None
    """``None`` where the solution cannot continue the prompt."""


def phase_of(num_tokens: int, limits: Sequence[int]) -> int | None:
    """The first phase, counted from 1, with a limit of at least ``num_tokens``; ``None`` if there is none."""
    return next((index for index, limit in enumerate(limits, 1) if num_tokens <= limit), None)


def fit_sft(rows: Iterable[Row], split: Split, tokenizer: Any, limit: int) -> Iterator[Row]:
    """Rows whose prompt and solution together fit the limit.

    Rows without a solution are dropped, and those whose solution cannot continue the prompt: where the chat template
    opens ``<think>``, it has to close it.
    """

    def solved() -> Iterator[Row]:
        for row in rows:
            if row.example.solution is None:
                split.drop(row.example, "no_solution")
            else:
                yield row

    for row, solution_tokens in _measured(solved(), lambda batch: _count(batch, tokenizer, solutions=True)):
        if solution_tokens is None:
            split.drop(row.example, "no_thinking (the chat template opens <think>, the solution has no </think>)")
        elif (row.example.num_tokens or 0) + solution_tokens > limit:
            split.drop(row.example, f"over_length (more than {limit} tokens)")
        else:
            yield row


def fit_questions(rows: Iterable[Row], split: Split, tokenizer: Any, limit: int) -> Iterator[Row]:
    """Rows whose prompt fits the limit, without the solution they came with: a teacher's takes its place."""
    for row, _ in fit_train(rows, split, tokenizer, (limit,)):
        yield row._replace(example=replace(row.example, solution=None))


def fit_train(rows: Iterable[Row], split: Split, tokenizer: Any, limits: Sequence[int]) -> Iterator[tuple[Row, int]]:
    """Rows with their phase; rows over the last phase's limit are dropped."""
    for row, _ in _measured(rows, lambda batch: _count(batch, tokenizer)):
        if phase := phase_of(row.example.num_tokens or 0, limits):
            yield row, phase
        else:
            split.drop(row.example, f"over_length (more than {limits[-1]} tokens)")


def fit_eval(rows: Iterable[Row], split: Split, tokenizer: Any, limit: int) -> Iterator[Row]:
    """All rows; those over the limit lose the middle of their document."""

    def shortened(batch: Sequence[Row]) -> list[Row]:
        return [_shorten(row, split, tokenizer, limit) for row, _ in _count(batch, tokenizer)]

    yield from _measured(rows, shortened)


def _shorten(row: Row, split: Split, tokenizer: Any, limit: int) -> Row:
    if (row.example.num_tokens or 0) <= limit:
        return row
    split.truncated += 1
    cut, kept, lost = truncate_middle(tokenizer, row.example, limit)
    metadata = {**cut.metadata, "kept_tokens": kept, "lost_tokens": lost}
    return row._replace(example=replace(cut, num_tokens=prompt_tokens(tokenizer, cut), metadata=metadata))


def _count(batch: Sequence[Row], tokenizer: Any, *, solutions: bool = False) -> list[Measured]:
    prompts = [render_prompt(tokenizer, row.example) for row in batch]
    counts = count_tokens(tokenizer, prompts)
    extra = _count_solutions(batch, prompts, tokenizer) if solutions else [0] * len(batch)
    return [
        Measured(row._replace(example=replace(row.example, num_tokens=count)), more)
        for row, count, more in zip(batch, counts, extra, strict=True)
    ]


def _count_solutions(batch: Sequence[Row], prompts: Sequence[str], tokenizer: Any) -> list[int | None]:
    """Tokens of each solution as the policy would have to write it; ``None`` where it cannot continue the prompt."""

    def continued(prompt: str, solution: str) -> str | None:
        try:
            return as_completion(prompt, solution)
        except ValueError:
            return None

    texts = [continued(prompt, row.example.solution or "") for prompt, row in zip(prompts, batch, strict=True)]
    counts = iter(count_tokens(tokenizer, [text for text in texts if text is not None]))
    return [None if text is None else next(counts) for text in texts]


def _measured(rows: Iterable[Row], work: Callable[[Sequence[Row]], list[T]]) -> Iterator[T]:
    """The results of ``work`` on batch after batch, in order.

    ``work`` runs in one thread. The tokenizer releases the interpreter lock, so while it counts a batch, the
    next batch is read here and the previous one is written.
    """
    pending: Future[list[T]] | None = None
    with ThreadPoolExecutor(1) as thread:
        for batch in batches(rows):
            done, pending = pending, thread.submit(work, batch)
            if done is not None:
                yield from done.result()
        if pending is not None:
            yield from pending.result()


def batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Batches with a bounded amount of text, which bounds memory."""
    batch: list[Row] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += len(row.example.context)
        if characters >= _BATCH_CHARACTERS or len(batch) >= _BATCH_ROWS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
