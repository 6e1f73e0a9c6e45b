"""The prompt's form and the reader agree: an answer in the parentheses of the form is the answer inside them.

The prompt of the paper asks for "Therefore, the answer is (insert answer here)", and small models copy the parentheses.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from qwenlong_core.bundled import bundled_tokenizer
from qwenlong_core.data.synthesis.generate import generate_bucket
from qwenlong_core.records import Completion, Example
from qwenlong_core.rewards.hybrid import score_by_rule
from qwenlong_core.settings.data import LengthBucket
from qwenlong_core.settings.rewards import RewardSettings

FOLDER = os.environ.get("QWENLONG_REAL_DATA")
NUMBER = Example(
    id="n", source="t", domain="math", answer_type="number", context="", question="How much?", answers=("5",)
)


def rule(example: Example, answer: str) -> float | None:
    completion = Completion(text=f"Therefore, the answer is {answer}.", token_ids=(), finish_reason="stop")
    return score_by_rule(example, completion, RewardSettings()).score.rule


def negated(gold: str) -> str:
    return gold[1:] if gold.startswith("-") else f"-{gold}"


def check(rows: Iterator[Example]) -> int:
    """The number of golds that are paid in parentheses, and never as their negative."""
    count = 0
    for row in rows:
        for gold in row.answers:
            assert rule(replace(row, answers=(gold,)), f"({gold})") == 1.0, gold
            if row.answer_type == "number":
                assert rule(replace(row, answers=(negated(gold),)), f"({gold})") == 0.0, gold
            count += 1
    return count


def test_every_generated_gold_in_the_prompts_parentheses_is_paid_and_never_as_its_negative() -> None:
    rows = generate_bucket(bundled_tokenizer(), LengthBucket(min_tokens=190, max_tokens=512, rows=60), "form")
    assert check(row for row in rows if row.answer_type != "choice") >= 35


@pytest.mark.skipif(not FOLDER, reason="QWENLONG_REAL_DATA names no folder")
def test_every_real_number_in_the_prompts_parentheses_is_paid_and_never_as_its_negative() -> None:
    def examples() -> Iterator[Example]:
        with (Path(FOLDER or ".") / "tatqa_dev.jsonl").open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                scale = {"answer_scale": row["answer_scale"]} if row.get("answer_scale") else {}
                # One question per gold: its wording may ask for a unit.
                yield replace(
                    NUMBER, id=row["id"], question=row["question"], answers=tuple(row["answers"]), metadata=scale
                )

    assert check(examples()) >= 200
