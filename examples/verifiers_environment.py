"""An environment for verifiers: questions on documents, scored by this project's reward.

Rows are those of ``qwenlong generate`` or any other file in the uniform format (docs/data.md)::

    vf.load_environment("...")  calls  load_environment(path="rows.jsonl")
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import verifiers as vf
from datasets import Dataset

from qwenlong_core import reward

_OPTIONAL = ("answer_type", "choices", "answer_scale")


def docqa_reward(completion: Any, info: Any, **_: Any) -> float:
    """1.0 or 0.0 by the last message, against the gold answers that the row carries."""
    row = json.loads(info) if isinstance(info, str) else info
    text = completion if isinstance(completion, str) else completion[-1]["content"]
    options = {name: row[name] for name in _OPTIONAL if row.get(name)}
    return float(reward(text, row["answers"], question=row["question"], **options).value)


def load_environment(path: str, **options: Any) -> vf.Environment:
    """One turn a question. ``path`` is a file of rows, one a line."""
    rows = [json.loads(line) for line in Path(path).read_text().splitlines() if line.strip()]
    data = Dataset.from_list(
        [
            {
                "question": f"{row['context']}\n\n{row['question']}\n\nEnd with: Therefore, the answer is ...",
                "info": json.dumps({name: row.get(name) for name in ("question", "answers", *_OPTIONAL)}),
            }
            for row in rows
        ]
    )
    return vf.SingleTurnEnv(dataset=data, rubric=vf.Rubric(funcs=[docqa_reward]), **options)
