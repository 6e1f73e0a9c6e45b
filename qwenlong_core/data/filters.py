"""Filters for duplicates and for training rows that leak evaluation data.

Each filter takes a stream of rows and yields the rows to keep. It records a dropped row in its split, with the
reason and the id of the row it duplicates. Memory holds keys and ids, never texts.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from qwenlong_core.data.near_duplicates import NearDuplicates, signature
from qwenlong_core.data.splits import Row, Split, digest
from qwenlong_core.records import Example

TEMPLATE_DOCUMENTS = 3
"""A question asked of this many documents is a template and does not count as a leak."""

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def question_key(example: Example) -> bytes:
    """Key of the question with its answers; for multiple choice, the answers are the texts of the options."""
    if example.choices:
        # Letters are not enough: the same question may list its options in another order.
        right = (example.choices[_LETTERS.index(letter)] for letter in example.answers)
        return digest(example.question.lower(), *sorted(text.lower() for text in right))
    return digest(example.question.lower(), *sorted(answer.lower() for answer in example.answers))


class Names:
    """Gives every row an id of its own: different sources may use the same ids, and MuSiQue-Full's pairs share one."""

    def __init__(self) -> None:
        self._last_number: dict[str, int] = {}

    def own(self, name: str) -> str:
        """``name`` the first time, then ``name#2``, ``name#3`` ..."""
        last, own = self._last_number, name
        if name in last:
            number = last[name] + 1
            while (own := f"{name}#{number}") in last:
                number += 1
            last[name] = number
        last[own] = 1
        return own


def named_apart(rows: Iterable[Row], split: Split) -> Iterator[Row]:
    """Number the ids that several rows share; see :class:`Names`."""
    names = Names()
    for row in rows:
        own = names.own(row.example.id)
        if own != row.example.id:
            split.renamed += 1
            row = row._replace(example=replace(row.example, id=own))
        yield row


def without_duplicates(rows: Iterable[Row], split: Split) -> Iterator[Row]:
    """Keep the first of the rows that share document, question and answers."""
    seen: dict[bytes, str] = {}
    for row in rows:
        first = seen.setdefault(row.document + question_key(row.example), row.example.id)
        if first == row.example.id:
            yield row
        else:
            split.drop(row.example, "duplicate", first)


@dataclass
class Templates:
    """Counts how many documents each question is asked of: sharing a template is no leak."""

    _asked: dict[bytes, tuple[bytes, ...]] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Record that the row's question is asked of its document."""
        question = digest(row.example.question)
        documents = self._asked.get(question, ())
        if len(documents) < TEMPLATE_DOCUMENTS and row.document not in documents:
            self._asked[question] = (*documents, row.document)

    def __contains__(self, example: Example) -> bool:
        return len(self._asked.get(digest(example.question), ())) >= TEMPLATE_DOCUMENTS


@dataclass
class HeldOut:
    """Keys of the evaluation rows, to find the training rows that repeat them."""

    documents: dict[bytes, str] = field(default_factory=dict)
    questions: dict[bytes, str] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Record an evaluation row."""
        self.documents[row.document] = self.questions[question_key(row.example)] = row.example.id


def without_leaks(rows: Iterable[Row], split: Split, held_out: HeldOut, templates: Templates) -> Iterator[Row]:
    """Drop training rows that share their document, or their question with its answers, with evaluation."""
    for row in rows:
        example = row.example
        if met := held_out.documents.get(row.document):
            split.drop(example, "document_in_evaluation", met)
        elif (met := held_out.questions.get(question_key(example))) and example not in templates:
            split.drop(example, "question_in_evaluation", met)
        else:
            yield row


class NearDuplicateFilter:
    """Drops near duplicates within a split, and training rows whose document is nearly an evaluation document.

    A near duplicate has the same question and answers as an earlier row, on a nearly equal document. Different
    questions on nearly equal documents are kept. Call :meth:`evaluation` before :meth:`training`. Each distinct
    document is hashed once.

    Args:
        threshold: Jaccard similarity, 0 to 1, from which documents are nearly equal.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._held_out: NearDuplicates | None = None
        self.documents = 0
        """Documents compared so far."""
        self.seconds = 0.0
        """CPU time of the comparisons so far."""

    def evaluation(self, rows: Iterable[Row], split: Split) -> Iterator[Row]:
        """The evaluation rows to keep; training rows will be compared with them."""
        index = NearDuplicates(self._threshold)
        yield from self._without_repeats(rows, split, index)
        self._held_out = index

    def training(self, rows: Iterable[Row], split: Split) -> Iterator[Row]:
        """The training rows to keep."""
        return self._without_repeats(rows, split, NearDuplicates(self._threshold))

    def _without_repeats(self, rows: Iterable[Row], split: Split, index: NearDuplicates) -> Iterator[Row]:
        group_of: dict[bytes, str] = {}  # document -> first row on a nearly equal document
        leaked: dict[bytes, str] = {}  # document -> evaluation row on a nearly equal document
        asked: dict[tuple[str, bytes], str] = {}  # group and question -> first row that asks it
        for row in rows:
            if row.document not in group_of:
                group_of[row.document], met = self._look_up(row.example, index)
                if met is not None:
                    leaked[row.document] = met
            if row.document in leaked:
                split.drop(row.example, "near_document_in_evaluation", leaked[row.document])
                continue
            first = asked.setdefault((group_of[row.document], question_key(row.example)), row.example.id)
            if first == row.example.id:
                yield row
            else:
                split.drop(row.example, "near_duplicate", first)

    def _look_up(self, example: Example, index: NearDuplicates) -> tuple[str, str | None]:
        """The first row on a nearly equal document (or this row), and the evaluation row on one, if any."""
        start = time.thread_time()
        minhash = signature(example.context)
        met = self._held_out.find(minhash) if self._held_out else None
        group = index.find(minhash)
        if group is None:
            index.add(example.id, minhash)
        self.documents += 1
        self.seconds += time.thread_time() - start
        return group or example.id, met
