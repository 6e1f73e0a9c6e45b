"""The folders that a small report is made of."""

import json

import pytest
from report_pages import example

from qwenlong_core.data.rows import write_examples


@pytest.fixture
def inputs(tmp_path, make_evaluation, write_evaluation):
    domains = ["math"] * 6 + ["reading"] * 6
    ids = [f"q{i:04d}" for i in range(12)]
    data = tmp_path / "data"
    data.mkdir()
    write_examples(
        data / "eval.parquet",
        [example(item, domain=domain, question=f"Where <b>{item}</b>?") for item, domain in zip(ids, domains)],
    )
    tokens = {"min": 200, "median": 300, "max": 400, "total": 3600}
    split = {
        "rows": 12,
        "documents": 12,
        "refused": 0,
        "domains": {"math": 6},
        "tokens": tokens,
        "dropped": {"too long": 3},
    }
    (data / "summary.json").write_text(json.dumps({"splits": {"eval": split}}))
    grpo = tmp_path / "grpo"
    grpo.mkdir()
    rows = [{"step": i, "reward": i / 4, "accuracy": 0.5, "groups_kept": i, "groups_drawn": 4} for i in (1, 2, 3)]
    (grpo / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (grpo / "job.json").write_text('{"learning_rate": 2e-06}')
    base = make_evaluation([0, 1] * 6, "a", domains=domains)
    hostile = "<think>hm</think><script>alert(1)</script> The answer is Paris."
    sft = make_evaluation([1, 1, 1, 0] * 3, "b", domains=domains, completion=hostile, depth=0.3)
    decision = {
        "promote": False,
        "reason": "refused: gain: too <small>",
        "conditions": [{"name": "gain", "passed": False, "detail": "+0.25"}],
    }
    promote = tmp_path / "promote"
    promote.mkdir()
    (promote / "decision.json").write_text(json.dumps(decision))
    return {
        "data": data,
        "grpo-1": grpo,
        "promote": promote,
        "evaluate-base": write_evaluation(base, tmp_path / "base"),
        "evaluate-sft": write_evaluation(sft, tmp_path / "sft"),
    }
