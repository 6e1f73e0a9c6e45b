"""NarrativeQA and Qasper in their own layouts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qwenlong_core.data.sources.validation import BadRow, text_field, texts
from qwenlong_core.records import AnswerType, Example
from qwenlong_core.rewards.infer import infer_answer_type

_UNANSWERABLE = "Unanswerable"


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def parse_narrativeqa(row: dict[str, Any], path: Path, number: int) -> Iterator[Example]:
    """Hub layout (the story is in ``document.text``), or the official ``qaps.csv`` beside ``tmp/ID.content``."""
    if "story_url" in row and "question" not in row:
        raise BadRow("documents.csv lists the stories without text and questions: give qaps.csv")
    if isinstance(row.get("document"), dict):
        document = row["document"]
        question = text_field(row["question"] if isinstance(row.get("question"), dict) else row, "text")
        answers = texts([a["text"] for a in row.get("answers") or [] if isinstance(a, dict) and "text" in a], "answers")
        document_id, story = str(document.get("id")), text_field(document, "text")
    else:
        document_id, question = text_field(row, "document_id"), text_field(row, "question")
        answers = texts([row[key] for key in ("answer1", "answer2") if row.get(key)], "answer1")
        story = _story(path.parent / "tmp" / f"{document_id}.content")
    answers = tuple(dict.fromkeys(answers))
    yield Example(
        id=f"narrativeqa-{document_id}-{_key(question)}",
        source="narrativeqa",
        domain="reading",
        answer_type=infer_answer_type("reading", answers, ()),
        context=story,
        question=question,
        answers=answers,
        document_id=document_id,
    )


def _story(path: Path) -> str:
    if not path.is_file():
        raise BadRow(
            f"the story {path} is missing, and the official CSVs do not include it: run download_stories.sh of "
            "google-deepmind/narrativeqa there, or use the hub's deepmind/narrativeqa"
        )
    return path.read_text(encoding="utf-8", errors="strict")


def _rows(value: Any) -> list[dict[str, Any]]:
    """A list of rows; the hub's layout, columns of equal length, is turned into rows."""
    if isinstance(value, dict):
        columns = {key: column for key, column in value.items() if isinstance(column, list)}
        return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    return [row for row in value or [] if isinstance(row, dict)]


def parse_qasper(row: dict[str, Any], path: Path, number: int) -> Iterator[Example]:
    """One paper with its questions, as release JSON or in the hub's layout. Every annotator's answer is gold."""
    if "qas" not in row or "full_text" not in row:
        raise BadRow(f"no 'full_text' and 'qas'; found {', '.join(list(row)[:8])}")
    paper_id, title = str(row.get("id")), text_field(row, "title")
    parts = [title, str(row.get("abstract") or "")]
    for section in _rows(row["full_text"]):
        parts += [str(section.get("section_name") or ""), *(str(text) for text in section.get("paragraphs") or [])]
    context = "\n\n".join(part for part in parts if part.strip())
    for qa in _rows(row["qas"]):
        answers, answer_type = _annotated(qa)
        yield Example(
            id=f"qasper-{qa.get('question_id') or _key(str(qa.get('question')))}",
            source="qasper",
            domain="reading",
            answer_type=answer_type,
            context=context,
            question=text_field(qa, "question"),
            answers=answers,
            document_id=paper_id,
        )


def _annotated(qa: dict[str, Any]) -> tuple[tuple[str, ...], AnswerType]:
    """All annotators' answers and their type; if they disagree in type, or on yes and no, it is ``span``."""
    golds: dict[str, AnswerType] = {}
    annotations = qa.get("answers")
    if isinstance(annotations, dict):
        annotations = [{"answer": answer} for answer in annotations.get("answer") or []]
    for annotation in annotations or []:
        answer = annotation.get("answer") or {}
        if answer.get("unanswerable"):
            golds[_UNANSWERABLE] = "unanswerable"
        elif answer.get("yes_no") is not None:
            golds["Yes" if answer["yes_no"] else "No"] = "yes_no"
        elif answer.get("free_form_answer"):
            golds[str(answer["free_form_answer"]).strip()] = "span"
        elif answer.get("extractive_spans"):
            golds[", ".join(str(span).strip() for span in answer["extractive_spans"])] = "span"
    kinds = set(golds.values())
    if not golds:
        raise BadRow(f"question {qa.get('question')!r} has no answer")
    decided = len(kinds) == 1 and (len(golds) == 1 or "yes_no" not in kinds)
    return tuple(golds), kinds.pop() if decided else "span"
