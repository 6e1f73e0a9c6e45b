"""The texts of RULER that are not synthetic, from the files its download scripts write: essays, SQuAD, HotpotQA.

The source ``ruler:FOLDER`` names a folder that holds ``PaulGrahamEssays.json`` (``{"text": ...}``), ``squad.json``
(SQuAD 2.0's dev set) and ``hotpotqa.json`` (HotpotQA's dev set, distractor). Tasks whose file is not there are left
out, by name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwenlong_core.data.ruler.tasks import ESSAYS, HOTPOTQA, SQUAD, TASKS

RULER = "ruler"
"""The source: alone, or with the folder of copies, ``ruler:FOLDER``."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question with the documents that it is about, by their numbers among all."""

    question: str
    answers: tuple[str, ...]
    own: tuple[int, ...]
    near: tuple[int, ...] = ()
    """Of the same article: they are the first to fill up the prompt."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The questions of a data set and all of its different documents."""

    questions: Sequence[Asked]
    documents: Sequence[str]


def is_ruler(spec: str) -> bool:
    """Whether a source names RULER."""
    return spec.partition(":")[0] == RULER


def copies_of(spec: str) -> list[Path]:
    """The files of copies that a ``ruler`` source has, sorted.

    Raises:
        ValueError: the folder it names is not there, or holds none of them.
    """
    _, _, location = spec.partition(":")
    if not location:
        return []
    names = sorted({task.needs for task in TASKS.values()} - {""})
    found = [Path(location) / name for name in names if (Path(location) / name).is_file()]
    if not found:
        raise ValueError(
            f"data source {spec!r}: {location} holds none of {', '.join(names)}, which RULER's download scripts write:"
            f" put them there, or name {RULER!r} alone for the tasks that need no copies"
        )
    return found


def tasks_left_out(spec: str) -> dict[str, str]:
    """The tasks that cannot be made for want of a copy, each with the file it needs."""
    there = {path.name for path in copies_of(spec)}
    return {task.name: task.needs for task in TASKS.values() if task.needs and task.needs not in there}


def read_essay(folder: Path) -> list[str]:
    """The words of the essays.

    Raises:
        ValueError: the file is not RULER's.
    """
    content = _content(folder / ESSAYS)
    text = content.get("text") if isinstance(content, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{folder / ESSAYS} holds no 'text': take the file that RULER's download script writes")
    return text.split()


def read_dataset(folder: Path, name: str) -> Dataset:
    """The questions of ``squad.json`` or ``hotpotqa.json``.

    Raises:
        ValueError: the file is not the data set's.
    """
    path = folder / name
    content = _content(path)
    try:
        found = {SQUAD: _squad, HOTPOTQA: _hotpotqa}[name](content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} has another layout than {name} of RULER: {type(error).__name__} {error}") from error
    if not found.questions:
        raise ValueError(f"{path} holds no question that has an answer")
    return found


def _content(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _squad(content: Any) -> Dataset:
    articles = [[paragraph["context"] for paragraph in article["paragraphs"]] for article in content["data"]]
    documents = sorted({text for article in articles for text in article})
    place = {text: number for number, text in enumerate(documents)}
    questions = [
        Asked(
            question=asked["question"],
            answers=tuple(answer["text"] for answer in asked["answers"]),
            own=(place[paragraph["context"]],),
            near=tuple(place[text] for text in texts if text != paragraph["context"]),
        )
        for article, texts in zip(content["data"], articles)
        for paragraph in article["paragraphs"]
        for asked in paragraph["qas"]
        if not asked["is_impossible"]
    ]
    return Dataset(questions=questions, documents=documents)


def _hotpotqa(content: Any) -> Dataset:
    contexts = [[f"{title}\n{''.join(sentences)}" for title, sentences in row["context"]] for row in content]
    documents = sorted({text for context in contexts for text in context})
    place = {text: number for number, text in enumerate(documents)}
    questions = [
        Asked(question=row["question"], answers=(row["answer"],), own=tuple(place[text] for text in context))
        for row, context in zip(content, contexts)
    ]
    return Dataset(questions=questions, documents=documents)
