"""The rows of SFT by what they are for: solutions to imitate, questions for a teacher, or nothing."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from test_thinking_template import R1_DISTILL

from qwenlong_core.data.prepare import run
from qwenlong_core.data.rows import read_examples
from qwenlong_core.jobs import PrepareJob
from qwenlong_core.settings.data import DataSettings
from qwenlong_core.stage_main import OUTPUT

THOUGHT = "<think>\nI read it.\n</think>\n\nTherefore, the answer is 5."
GENERATED = ({"min_tokens": 200, "max_tokens": 300, "rows": 3},)


def record(name: str, **more: Any) -> dict[str, Any]:
    text = f"Of {name} there are 5."
    return {"id": name, "domain": "math", "context": text, "question": f"How many {name}?", "answers": ["5"], **more}


@pytest.fixture
def prepared(tmp_path: Path, tokenizer: Any) -> Any:
    """``prepared(rows, records)``: the summary and the rows of SFT, under R1's template."""

    def make(sft_rows: Any, records: list[dict[str, Any]], limit: int = 400) -> tuple[dict[str, Any], Path]:
        of_base = copy.deepcopy(tokenizer)  # other tests share it
        of_base.chat_template = R1_DISTILL
        of_base.save_pretrained(tmp_path / "base")
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in records))
        sft = () if sft_rows == "none" else (str(tmp_path / "rows.jsonl"),)
        data = DataSettings(sft=sft, generate_train=GENERATED, generate_eval=GENERATED)
        job = PrepareJob(
            data=data, sft_rows=sft_rows, sft_max_tokens=limit, phase_limits=(400,), eval_max_tokens=400, seed=3
        )
        run(job, {"base": tmp_path / "base"}, tmp_path)
        output = tmp_path / OUTPUT
        return json.loads((output / "summary.json").read_text())["splits"], output

    return make


def test_a_solution_without_thinking_is_dropped_where_the_template_opens_it(prepared: Any) -> None:
    records = [record("wells", solution=THOUGHT), record("towns", solution="Therefore, the answer is 5.")]
    splits, output = prepared("solutions", records)
    assert [row.id for row in read_examples(output / "sft.parquet")] == ["wells"]
    assert splits["sft"]["dropped"] == {
        "no_thinking (the chat template opens <think>, the solution has no </think>)": 1
    }


def test_questions_need_no_solution_and_keep_none(prepared: Any) -> None:
    long = record("roads", context="Of roads there are 5. " * 100)
    splits, output = prepared("questions", [record("wells"), record("towns", solution="a template"), long], 200)
    rows = read_examples(output / "sft.parquet")
    assert [(row.id, row.solution) for row in rows] == [("wells", None), ("towns", None)]
    assert all(row.num_tokens for row in rows)
    assert splits["sft"]["dropped"] == {"over_length (more than 200 tokens)": 1}


def test_where_sft_is_skipped_no_rows_are_made_for_it(prepared: Any) -> None:
    splits, output = prepared("none", [])
    assert set(splits) == {"train", "eval"} and not (output / "sft.parquet").exists()
