"""DocMath-Eval, FRAMES, LongBench and LongBench v2 in their own layouts."""

from __future__ import annotations

import ast
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qwenlong_core.data.sources.files import records
from qwenlong_core.data.sources.validation import BadRow, check_choice, row_id, text_field, texts
from qwenlong_core.data.wordings import frame
from qwenlong_core.records import Domain, Example
from qwenlong_core.rewards.infer import infer_answer_type

LONGBENCH: dict[str, Domain] = {
    "2wikimqa": "multihop",
    "hotpotqa": "multihop",
    "musique": "multihop",
    "narrativeqa": "reading",
    "qasper": "reading",
    "multifieldqa_en": "reading",
    "multifieldqa_zh": "reading",
    "dureader": "reading",
}
LONGBENCH_NAMES = {"2wikimqa": "2wikimultihopqa"}
DOCMATH_KINDS = ("complong", "compshort", "simplong", "simpshort")
DOCMATH_SELECTION = "docmath_all_test_200.jsonl"
"""Prompts of the paper's 200 questions. The other 600 of testmini are in DocQA-RL, the training data."""
_MAX_LITERAL = 5_000_000
_V2_BEFORE = "Please read the following text and answer the question below.\n\n<text>\n"
_V2_FORM = 'Format your response as follows: "The correct answer is (insert answer here)".'


def parse_docmath(row: dict[str, Any], path: Path, number: int) -> Iterator[Example]:
    """The document is the paragraphs, joined by newlines; the gold is the result of the reference program."""
    paragraphs = row.get("paragraphs")
    if not isinstance(paragraphs, list) or not any(str(text).strip() for text in paragraphs):
        raise BadRow("no 'paragraphs'")
    if "ground_truth" not in row:
        raise BadRow("no 'ground_truth': the test splits of DocMath-Eval are published without it; use testmini")
    answers = texts(row["ground_truth"], "ground_truth")
    yield Example(
        id=f"docmath-{row_id(row, 'question_id')}",
        source="docmath",
        domain="math",
        answer_type=infer_answer_type("math", answers, ()),
        context="\n".join(map(str, paragraphs)),
        question=text_field(row, "question"),
        answers=answers,
        metadata={"origin": row.get("source")},
    )


def parse_docmath_selected(row: dict[str, Any], path: Path, number: int) -> Iterator[Example]:
    """The rows whose question and document stand in one of the prompts beside the file, as in the paper's evaluation.

    The prompts are those of ``docmath_all_test_200.jsonl`` in Tongyi-Zhiwen/docmath.
    """
    if path.name == DOCMATH_SELECTION:
        return
    selection = path.with_name(DOCMATH_SELECTION)
    if not selection.is_file():
        raise BadRow(
            f"{selection} is missing: it names the paper's 200 questions; put the file of the hub's"
            " Tongyi-Zhiwen/docmath there, or read all 800 with the source docmath"
        )
    for example in parse_docmath(row, path, number):
        question, context = example.question.strip(), example.context.strip()
        # The question first: it stands in the short part after the document, and rules out nearly every prompt.
        if any(question in asked and context in prompt for asked, prompt in _selected_prompts(selection)):
            yield example


@functools.lru_cache(maxsize=2)
def _selected_prompts(path: Path) -> tuple[tuple[str, str], ...]:
    """The part after the document, and the whole, of each prompt."""
    prompts = []
    for number, record in records(path):
        try:
            prompt = record["prompt"][0]["content"]  # type: ignore[index]
        except (TypeError, KeyError, IndexError):
            raise BadRow(f"{path}:{number} holds no prompt[0].content") from None
        prompts.append((prompt.rpartition("</text>")[2], prompt))
    return tuple(prompts)


def parse_frames(row: dict[str, Any], path: Path, number: int) -> Iterator[Example]:
    """Tongyi-Zhiwen's copy, which has title and text of every Wikipedia article in ``wiki_items``."""
    if "Prompt" not in row:
        raise BadRow(
            f"no 'Prompt'; found {', '.join(list(row)[:8])}: these are not rows of FRAMES; the hub's"
            " Tongyi-Zhiwen/frames has them with the articles"
        )
    if not row.get("wiki_items"):
        raise BadRow(
            "no 'wiki_items': google/frames-benchmark has links only; the hub's Tongyi-Zhiwen/frames has the articles"
        )
    items = _listed(row["wiki_items"], "wiki_items")
    context = "\n".join(f"{item.get('title', '')}\n{item.get('text', '')}" for item in items)
    if not any(str(item.get("text") or "").strip() for item in items):
        raise BadRow("'wiki_items' has no text")
    answers, question = texts(row.get("Answer"), "Answer"), text_field(row, "Prompt")
    yield Example(
        id=f"frames-{row_id(row, 'id', 'Unnamed: 0', 'index')}",
        source="frames",
        domain="multihop",
        answer_type=infer_answer_type("multihop", answers, ()),
        context=context,
        question=question,
        answers=answers,
        metadata={"reasoning_types": row.get("reasoning_types")},
    )


def _listed(value: Any, key: str) -> list[dict[str, Any]]:
    """A list of objects, which may be written as JSON or as a Python literal."""
    if isinstance(value, str):
        if len(value) > _MAX_LITERAL:
            raise BadRow(f"{key!r} is a text of {len(value):,} characters")
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            try:
                value = ast.literal_eval(value)
            except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
                raise BadRow(f"{key!r} is neither JSON nor a list") from error
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise BadRow(f"{key!r} is not a list of objects")
    return value


def parse_longbench(row: dict[str, Any], path: Path, number: int, only: str = "") -> Iterator[Example]:
    """The question-answering tasks of LongBench, or ``only`` one of them; every answer listed is gold."""
    task = text_field(row, "dataset").removesuffix("_e")
    if only and task != only:
        raise BadRow(f"a question of LongBench's {task}, not of its {only}")
    if task not in LONGBENCH:
        raise BadRow(f"LongBench task {task!r} has no short gold answer: use one of {', '.join(LONGBENCH)}")
    answers = tuple(dict.fromkeys(texts(row.get("answers"), "answers")))
    yield Example(
        id=f"longbench-{task}-{row_id(row, '_id')}",
        source=LONGBENCH_NAMES.get(task, task),
        domain=LONGBENCH[task],
        answer_type=infer_answer_type(LONGBENCH[task], answers, ()),
        context=text_field(row, "context"),
        question=text_field(row, "input"),
        answers=answers,
        metadata={"layout": "longbench", "language": row.get("language")},
    )


def parse_longbench_v2(row: dict[str, Any], path: Path, number: int) -> Iterator[Example]:
    """Multiple choice with four options, asked in the published words, with and without the text."""
    choices = tuple(text_field(row, f"choice_{letter}") for letter in "ABCD")
    question = text_field(row, "question")
    asked = "\n".join((f"What is the correct answer to this question: {question}", "Choices:", *(
        f"({letter}) {text}" for letter, text in zip("ABCD", choices))))  # fmt: skip
    yield Example(
        id=f"longbench-v2-{row_id(row, '_id')}",
        source="longbench-v2",
        domain="reading",
        answer_type="choice",
        context=text_field(row, "context"),
        question=question,
        choices=choices,
        answers=check_choice(texts(row.get("answer"), "answer"), choices),
        metadata={
            **{key: row.get(key) for key in ("domain", "sub_domain", "difficulty", "length")},
            "parts": [str(row[key]) for key in ("difficulty", "length") if row.get(key)],
            **frame(
                _V2_BEFORE,
                f"\n</text>\n\n{asked}\n\n{_V2_FORM}",
                alone=f"{asked}\n\nWhat is the single, most likely answer choice? {_V2_FORM}",
            ),
        },
    )
