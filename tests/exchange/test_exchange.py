"""Answers in other tools' formats: read back by the tools' own readers; nothing is lost, nothing turns into a score."""

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from report_pages import example

from qwenlong_core.data.sources.benchmarks import parse_longbench
from qwenlong_core.exchange.inspect_log import write_inspect_log
from qwenlong_core.exchange.longbench import write_longbench
from qwenlong_core.exchange.table import write_table
from qwenlong_core.records import Score

ROWS = {f"q{i:04d}": example(f"q{i:04d}", question=f"Where is {i}?") for i in range(4)}


@pytest.fixture
def evaluation(make_evaluation):
    """Right, wrong, unscored, and one that the engine never answered."""
    made = make_evaluation([1, 0, None, 0], depth=0.25)
    failed = replace(
        made.samples[3],
        finish_reason="error",
        completion="",
        score=Score(value=None, status="error", reason="the server did not answer"),
    )
    return replace(made, samples=(*made.samples[:3], failed))


def test_a_table_has_every_answer_with_its_parts(evaluation, tmp_path):
    write_table(evaluation, ROWS, tmp_path / "a.parquet")
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert [row["outcome"] for row in rows] == ["right", "wrong", "unscored", "error"]
    assert [row["accuracy"] for row in rows] == [1.0, 0.0, None, None], "what has no verdict has no score"
    first = rows[0]
    assert (first["question"], first["answers"], first["extracted"]) == ("Where is 0?", ["Paris"], "7")
    assert first["completion_tokens"] == 7 and first["depth"] == 0.25 and "context" not in first
    write_table(evaluation, ROWS, tmp_path / "b.parquet", documents=True)
    assert pq.read_table(tmp_path / "b.parquet", columns=["context"]).to_pylist()[0] == {
        "context": ROWS["q0000"].context
    }


def test_longbench_rows_are_read_as_the_rows_they_were(make_evaluation, tmp_path):
    answers = {"hotpotqa": ("yes",), "2wikimultihopqa": ("Marie Curie", "Curie")}
    rows = {
        f"longbench-{task}-7": example(f"longbench-{task}-7", source=source, domain="multihop", answers=golds,
                                       answer_type=kind, metadata={"layout": "longbench", "language": "en"})
        for task, (source, golds), kind in zip(("hotpotqa", "2wikimqa"), answers.items(), ("yes_no", "span"))
    }  # fmt: skip
    made = make_evaluation([1, 0], completion="<think>hm</think>Therefore, yes.")
    named = tuple(replace(sample, example_id=item) for sample, item in zip(made.samples, rows))
    evaluation = replace(made, samples=named, plan=made.plan.model_copy(update={"items": tuple(rows)}))
    write_longbench(evaluation, rows, tmp_path)
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"hotpotqa.jsonl", "2wikimqa.jsonl"}
    for task, row in zip(("hotpotqa", "2wikimqa"), rows.values()):
        path = tmp_path / "data" / f"{task}.jsonl"
        assert list(parse_longbench(json.loads(path.read_text()), path, 1)) == [row]
        assert json.loads((tmp_path / "pred" / f"{task}.jsonl").read_text()) == {
            "pred": "Therefore, yes.", "answers": list(row.answers), "all_classes": None, "length": 4,
        }  # fmt: skip


def test_inspect_ai_opens_the_log(evaluation, tmp_path):
    log = pytest.importorskip("inspect_ai.log", reason="no inspect_ai: pip install inspect-ai")
    write_inspect_log(evaluation, ROWS, tmp_path / "log.json", name="mine", documents=True)
    found = log.read_eval_log(str(tmp_path / "log.json"))
    assert found.status == "success" and found.eval.model == "qwenlong/mine"
    assert [sample.id for sample in found.samples] == list(ROWS)
    first, wrong, unscored, failed = found.samples
    assert first.input == "It was in Paris.\n\nWhere is 0?" and first.target == ["Paris"]
    assert first.output.completion == "Therefore, the answer is 7." and first.output.stop_reason == "stop"
    assert (first.scores["qwenlong"].value, wrong.scores["qwenlong"].value) == (1.0, 0.0)
    assert first.scores["qwenlong"].answer == "7" and "equals gold" in first.scores["qwenlong"].explanation
    assert not unscored.scores and unscored.error is None and unscored.metadata["outcome"] == "unscored"
    assert not failed.scores and failed.error.message == "the server did not answer"
    [result] = found.results.scores
    assert result.metrics["accuracy"].value == 0.25 and found.results.completed_samples == 4


def test_the_log_is_plain_json_without_documents(evaluation, tmp_path):
    write_inspect_log(evaluation, ROWS, tmp_path / "log.json", name="mine")
    found = json.loads((tmp_path / "log.json").read_text())
    assert found["version"] == 2 and found["samples"][0]["input"] == "Where is 0?"
    assert found["eval"]["metadata"]["protocol"]["temperature"] == 0.7
    assert "NaN" not in (tmp_path / "log.json").read_text()
