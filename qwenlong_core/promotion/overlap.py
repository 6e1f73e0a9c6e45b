"""Does a model's training data contain what it is evaluated on? Counted again from the prepared rows.

Preparation drops training rows that overlap with its own evaluation set. But a challenger may have been trained on data
that was prepared at another time, against another evaluation set. Rows are compared by the same keys as there
(:mod:`qwenlong_core.data.filters`).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from qwenlong_core.data.filters import HeldOut, NearDuplicateFilter, Templates, without_leaks
from qwenlong_core.data.prepared import EVAL_ROWS, SFT_ROWS, TRAIN_ROWS
from qwenlong_core.data.rows import dataset_digest, read_examples, stream_examples
from qwenlong_core.data.splits import Row, Split, document_key
from qwenlong_core.evaluation.plan import Plan
from qwenlong_core.promotion.decision import Condition
from qwenlong_core.records import Example

TRAINING_FILES = (SFT_ROWS, TRAIN_ROWS)
IN_WORDS = {
    "document_in_evaluation": "on a document of the evaluation",
    "near_document_in_evaluation": "on one nearly equal to it",
    "question_in_evaluation": "with a question and answer of it",
}


def _rows(examples: Iterable[Example]) -> Iterator[Row]:
    return (Row(example, document_key(example)) for example in examples)


def _training_rows(folders: Iterable[Path]) -> Iterator[Row]:
    files = (folder / name for folder in folders for name in TRAINING_FILES)
    return (row for file in files if file.is_file() for row in _rows(stream_examples(file)))


def count_overlap(
    evaluated: Sequence[Example], same: Iterable[Path], other: Iterable[Path], near_duplicates: float | None
) -> tuple[int, Counter[str]]:
    """The number of training rows, and how many of them overlap with the evaluation, by reason.

    Args:
        evaluated: The rows of the evaluation.
        same: Prepared data with this very evaluation set. Its preparation compared the questions, knowing all
            templates among them, so here only the documents are compared again.
        other: Data that was prepared separately; documents and questions are compared.
        near_duplicates: Similarity from which two documents count as nearly equal; ``None`` finds equal ones only.
    """
    same, other = list(same), list(other)
    held_out, documents, templates = HeldOut(), HeldOut(), Templates()
    # A question that many documents share is a template, not a leak; which ones are shows only over all rows.
    for row in (*_rows(evaluated), *_training_rows(other)):
        templates.add(row)
    for row in _rows(evaluated):
        held_out.add(row)
    documents.documents = held_out.documents  # these keys compare documents alone
    near = NearDuplicateFilter(near_duplicates) if near_duplicates is not None else None
    read, found = 0, Counter[str]()
    # The filters of preparation write what they drop; here only the counts matter.
    with open(os.devnull, "w") as nowhere:
        if near is not None:
            # The filter learns the documents of the evaluation as its rows pass through.
            for _ in near.evaluation(_rows(evaluated), Split("eval", nowhere, nowhere)):
                pass
        for folders, keys in ((same, documents), (other, held_out)):
            part = Split("training", nowhere, nowhere)
            rows = without_leaks(_counted(_training_rows(folders), part), part, keys, templates)
            for _ in near.training(rows, part) if near is not None else rows:
                pass
            read += part.read
            found += part.dropped
    return read, Counter({reason: found[reason] for reason in IN_WORDS})


def _counted(rows: Iterable[Row], part: Split) -> Iterator[Row]:
    for row in rows:
        part.read += 1
        yield row


def overlap_words(found: Counter[str]) -> str:
    """The counts of :func:`count_overlap` by reason, in words."""
    return ", ".join(f"{found[reason]} {words}" for reason, words in IN_WORDS.items())


def overlap_condition(plan: Plan, rows: Path, trained: Iterable[Path], near_duplicates: float | None) -> Condition:
    """No training row of the challenger overlaps with the evaluated rows.

    Raises:
        ValueError: the data in ``rows`` is not the data that the plan was made from.
    """
    items = set(plan.items)
    evaluated = [example for example in read_examples(rows / EVAL_ROWS) if example.id in items]
    if dataset_digest(evaluated) != plan.dataset_digest:
        raise ValueError(
            f"the evaluated rows are not those of the prepared data {rows.name[:12]}: its dataset digest is "
            f"{dataset_digest(evaluated)[:12]}, the evaluation's {plan.dataset_digest[:12]}; evaluate again"
        )
    trained = list(trained)
    same = [folder for folder in trained if folder == rows]
    read, found = count_overlap(evaluated, same, [folder for folder in trained if folder != rows], near_duplicates)
    detail = f"of {read:,} rows the challenger was trained on, {overlap_words(found)} ({len(evaluated)} evaluated rows)"
    return Condition(name="no overlap with training data", passed=not found.total(), detail=detail)
