"""What is dropped from the rows that were read: duplicates, and training rows that stand in evaluation.

Every dropped row keeps its reason and, where it met another row, that row's id.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from qwenlong_core.data.near_duplicates import NearDuplicates, signature
from qwenlong_core.data.sources import Refused
from qwenlong_core.records import Example

logger = logging.getLogger(__name__)

TEMPLATE_DOCUMENTS = 3
"""A question asked of so many documents is a template: it does not count as leaked."""

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass
class Split:
    """Rows of one split, and what was left out on the way."""

    name: str
    rows: list[Example] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    dropped: list[dict[str, str]] = field(default_factory=list)
    read: int = 0
    truncated: int = 0

    def keep(self, decide: Callable[[Example], tuple[str, str] | None]) -> None:
        """Drop the rows for which ``decide`` gives a reason and the id of the row met (or "")."""
        kept = []
        for row in self.rows:
            verdict = decide(row)
            if verdict is None:
                kept.append(row)
            else:
                self.drop(row, *verdict)
        self.rows = kept

    def drop(self, row: Example, reason: str, met: str = "") -> None:
        """Leave a row out, and say why."""
        entry = {"split": self.name, "id": row.id, "source": row.source, "reason": reason}
        self.dropped.append({**entry, "met": met} if met else entry)

    def reasons(self) -> dict[str, int]:
        """Dropped rows by reason."""
        return dict(sorted(Counter(row["reason"] for row in self.dropped).items()))


def digest(*parts: str) -> str:
    """SHA-256 of texts, blind to white space."""
    return hashlib.sha256("\x1f".join(" ".join(part.split()) for part in parts).encode()).hexdigest()


def document_key(example: Example) -> str:
    """Key of the document's text."""
    return digest(example.context)


def question_key(example: Example) -> str:
    """Key of the question with its answers; for a choice the answer is the option's text."""
    if example.choices:
        right = (example.choices[_LETTERS.index(letter)] for letter in example.answers)
        return digest(example.question.lower(), *sorted(text.lower() for text in right))
    return digest(example.question.lower(), *sorted(answer.lower() for answer in example.answers))


def name_apart(split: Split) -> None:
    """Give later rows with an id that is taken a number: sources may use the same ids."""
    taken: set[str] = set()
    rows = []
    for row in split.rows:
        name, number = row.id, 1
        while name in taken:
            number += 1
            name = f"{row.id}#{number}"
        taken.add(name)
        rows.append(row if name == row.id else replace(row, id=name))
    split.rows = rows


def drop_duplicates(split: Split) -> None:
    """Of rows with the same document, question and answers the first one stays."""
    seen: dict[str, str] = {}

    def duplicate(row: Example) -> tuple[str, str] | None:
        first = seen.setdefault(document_key(row) + question_key(row), row.id)
        return None if first == row.id else ("duplicate", first)

    split.keep(duplicate)


def templated_questions(splits: Iterable[Split]) -> set[str]:
    """Questions asked of several documents: sharing one of them gives nothing away."""
    documents: dict[str, set[str]] = defaultdict(set)
    for split in splits:
        for row in split.rows:
            documents[row.question].add(document_key(row))
    return {question for question, asked in documents.items() if len(asked) >= TEMPLATE_DOCUMENTS}


def drop_leaked(split: Split, evaluation: Sequence[Example], templated: set[str]) -> None:
    """Drop training rows whose document, or question with its answers, is an evaluation row's."""
    documents = {document_key(row): row.id for row in evaluation}
    questions = {question_key(row): row.id for row in evaluation if row.question not in templated}

    def leaked(row: Example) -> tuple[str, str] | None:
        if met := documents.get(document_key(row)):
            return "document_in_evaluation", met
        if row.question not in templated and (met := questions.get(question_key(row))):
            return "question_in_evaluation", met
        return None

    split.keep(leaked)


def drop_near_duplicates(training: Sequence[Split], evaluation: Split, threshold: float) -> None:
    """Drop rows that repeat an earlier row on a nearly equal document, and training rows on a document
    nearly equal to one of the evaluation set.

    Different questions on nearly equal documents stay within a split. Each distinct document is hashed once;
    the time that takes is logged.
    """
    start, hashed = time.perf_counter(), 0
    held_out = NearDuplicates(threshold)
    hashed += _drop_repeats(evaluation, threshold, held_out, None)
    for split in training:
        hashed += _drop_repeats(split, threshold, NearDuplicates(threshold), held_out)
    logger.info("prepare: %d documents compared for near duplicates in %.1f s", hashed, time.perf_counter() - start)


def _drop_repeats(split: Split, threshold: float, index: NearDuplicates, held_out: NearDuplicates | None) -> int:
    """Group the split's documents by near equality, then drop; returns the documents hashed."""
    group_of: dict[str, str] = {}
    first_row: dict[str, str] = {}
    leaked: dict[str, str] = {}
    asked: dict[tuple[str, str], str] = {}

    def repeats(row: Example) -> tuple[str, str] | None:
        document = document_key(row)
        if document not in group_of:
            minhash = signature(row.context)
            met = held_out.find(minhash) if held_out else None
            if met is not None:
                leaked[document] = met
            near = index.find(minhash)
            group_of[document] = group_of[first_row[near]] if near is not None else document
            if near is None:
                index.add(row.id, minhash)
                first_row[row.id] = document
        if document in leaked:
            return "near_document_in_evaluation", leaked[document]
        first = asked.setdefault((group_of[document], question_key(row)), row.id)
        return None if first == row.id else ("near_duplicate", first)

    split.keep(repeats)
    return len(group_of)
