"""A taskset for verifiers 0.4: questions on documents, scored by this project's reward.

Rows are those of ``qwenlong generate`` or any other file in the uniform format (docs/data.md). With this file on the
Python path, verifiers finds it by its name: ``TasksetConfig(id="verifiers_environment", path="rows.jsonl")``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import verifiers.v1 as vf

from qwenlong_core import reward

__all__ = ["DocQATaskset"]

_OPTIONAL = ("answer_type", "choices", "answer_scale")


class DocQAData(vf.TaskData):
    """One question; the gold answers travel along, and never to the model."""

    question: str
    answers: list[str]
    options: dict[str, Any]


class DocQATask(vf.Task[DocQAData]):
    """One turn: document and question in, an answer out."""

    @vf.reward
    async def docqa(self, trace: vf.Trace) -> float:
        """1.0 or 0.0 by the last reply, against the gold answers that the row carries."""
        data = self.data
        return float(reward(trace.last_reply, data.answers, question=data.question, **data.options).value)


class DocQAConfig(vf.TasksetConfig):
    """Which rows."""

    path: Path


class DocQATaskset(vf.Taskset[DocQATask, DocQAConfig]):
    """The rows of a file, one a line."""

    def load(self) -> Iterator[DocQATask]:
        """Each row as a task."""
        for line in filter(str.strip, self.config.path.read_text().splitlines()):
            row = json.loads(line)
            data = DocQAData(
                prompt=f"{row['context']}\n\n{row['question']}\n\nEnd with: Therefore, the answer is ...",
                question=row["question"],
                answers=row["answers"],
                options={name: row[name] for name in _OPTIONAL if row.get(name)},
            )
            yield DocQATask(data, self.config.task)
