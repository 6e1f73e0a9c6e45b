"""Evaluations through a server: what the server did is never scored as what the model said."""

import hashlib
import json
import re
from dataclasses import replace

import pytest
from endpoint_server import raw, says, served
from test_runner import evaluate, make_job

from qwenlong_core.data.rows import write_examples
from qwenlong_core.evaluation.plan import SAMPLES, SCORES
from qwenlong_core.evaluation.rescoring import rescore
from qwenlong_core.evaluation.results import read_evaluation
from qwenlong_core.evaluation.samples import append_samples, read_samples
from qwenlong_core.records import Score
from qwenlong_core.settings.evaluation import EvaluationSettings, ServerSettings
from qwenlong_core.stage_main import OUTPUT

REFUSED = raw(b'{"error": {"message": "no"}}', "400 Bad Request")


def served_job(server, endpoint="chat", **changes):
    settings = ServerSettings(base_url=server.url, model="m", endpoint=endpoint, concurrency=2, max_retries=0)
    return make_job(engine="openai", server=settings, **changes)


def number_asked(request) -> str:
    return re.search(r"What is number (\d)\?", request["messages"][0]["content"])[1]


def answer(request):
    return says(f"Therefore, the answer is {number_asked(request)}.", usage=(50, 9))


def test_right_answers_from_a_server_are_right(tmp_path, policy, data_folder, rows):
    with served(lambda n, request: answer(request)) as server:
        output = evaluate(served_job(server), policy, data_folder, tmp_path / "w")
        assert len(server.requests) == 2 * len(rows)
        long = next(r["messages"][0]["content"] for r in server.requests if number_asked(r) == "9")
        assert "Entry 0 is 0." in long and "It is 9." in long and "Entry 30 is" not in long, "its middle is cut"
    evaluation = read_evaluation(output)
    assert evaluation.scores.overall.accuracy.mean == 1.0
    assert all(sample.num_tokens == 9 and sample.seconds > 0 for sample in evaluation.samples)
    assert evaluation.plan.protocol["server"] == {"model": "m", "endpoint": "chat"}


def test_the_completions_endpoint_sees_the_prompt_of_the_other_engines(tmp_path, policy, data_folder):
    with served(lambda n, request: says("5")) as server:
        output = evaluate(served_job(server, "completions"), policy, data_folder, tmp_path / "w")
        sent = {hashlib.sha256(json.dumps(request["prompt"]).encode()).hexdigest() for request in server.requests}
    assert sent == {sample.prompt_digest for sample in read_samples(output / SAMPLES)}


def test_an_error_is_counted_apart_and_asked_again(tmp_path, policy, data_folder):
    with served(lambda n, request: REFUSED if number_asked(request) == "4" else answer(request)) as server:
        output = evaluate(served_job(server, samples=1), policy, data_folder, tmp_path / "w")
    overall = read_evaluation(output).scores.overall
    assert overall.outcomes["right"] == 9 and overall.outcomes["error"] == 1
    assert (overall.accuracy.mean, overall.accuracy_without_unscored.mean) == (0.9, 1.0)
    failed = next(sample for sample in read_samples(output / SAMPLES) if sample.example_id == "r4")
    assert failed.score.value is None and "HTTP 400" in failed.score.reason
    # The benchmark's own metrics keep their denominators too: of the five texts one is 0, not one fewer.
    assert overall.metrics == pytest.approx({"em": 4 / 5, "f1": 4 / 5, "rouge_l": 4 / 5, "numeric_accuracy": 1.0})
    with served(lambda n, request: answer(request)) as server:
        evaluate(served_job(server, samples=1), policy, data_folder, tmp_path / "w")
        assert [number_asked(request) for request in server.requests] == ["4"], "only what failed is asked"
    assert read_evaluation(output).scores.overall.outcomes["right"] == 10


def test_a_server_that_dies_stops_the_run_and_loses_nothing(tmp_path, policy, rows):
    many = [replace(row, id=f"{row.id}-{n}") for row in rows for n in range(3)]
    write_examples(tmp_path / "eval.parquet", many)
    dies = lambda n, request: answer(request) if n < 6 else raw(b"", "500 Internal Server Error")  # noqa: E731
    with served(dies) as server, pytest.raises(ConnectionError, match=r"the last 8 requests all failed.*HTTP 500"):
        evaluate(served_job(server, samples=1), policy, tmp_path, tmp_path / "w")
    output = tmp_path / "w" / OUTPUT
    assert not (output / SCORES).exists()
    assert sum(sample.accuracy == 1 for sample in read_samples(output / SAMPLES)) == 6
    with served(lambda n, request: answer(request)) as server:
        evaluate(served_job(server, samples=1), policy, tmp_path, tmp_path / "w")
        assert len(server.requests) == 24
    assert read_evaluation(output).scores.overall.accuracy.mean == 1.0


def test_too_many_errors_are_no_evaluation(tmp_path, policy, data_folder):
    flaky = lambda n, request: REFUSED if int(number_asked(request)) % 4 == 1 else answer(request)  # noqa: E731
    with served(flaky) as server, pytest.raises(RuntimeError, match=r"0 of 10 answers are unscored and 3 failed"):
        evaluate(served_job(server, samples=1), policy, data_folder, tmp_path / "w")
    assert not (tmp_path / "w" / OUTPUT / SCORES).exists()


def test_rescoring_leaves_errors_as_they_are(tmp_path, policy, data_folder):
    with served(lambda n, request: REFUSED if number_asked(request) == "4" else answer(request)) as server:
        output = evaluate(served_job(server, samples=1), policy, data_folder, tmp_path / "w")
    rescore(make_job(samples=1), output, data_folder, tmp_path / "again")
    assert read_evaluation(tmp_path / "again").scores == read_evaluation(output).scores


def test_rescoring_without_a_judge_keeps_the_verdicts_of_the_log(tmp_path, policy, data_folder):
    """Two answers were judged equal, one different; one of the first two now extracts to something else."""
    with served(lambda n, request: says("Therefore, the answer is nothing.")) as server:
        output = evaluate(served_job(server, samples=1), policy, data_folder, tmp_path / "w")
    plan = output / "plan.json"
    plan.write_text(plan.read_text().replace('"judge": null', '"judge": {"model": "judge"}'))
    verdicts = {"r0": 1.0, "r2": 0.0, "r4": 1.0}
    samples = []
    for sample in read_samples(output / SAMPLES):
        given = verdicts.get(sample.example_id)
        score = Score(value=given, rule=0.0, judge=given, extracted="nothing")
        changed = replace(sample, score=score) if given is not None else sample
        if sample.example_id == "r4":
            changed = replace(changed, completion="Therefore, the answer is something else.")
        samples.append(changed)
    (output / SAMPLES).unlink()
    append_samples(output / SAMPLES, samples)
    rescore(make_job(samples=1), output, data_folder, tmp_path / "again")
    evaluation = read_evaluation(tmp_path / "again")
    found = {sample.example_id: sample for sample in evaluation.samples}
    assert (found["r0"].accuracy, found["r2"].accuracy) == (1.0, 0.0)
    assert found["r4"].score.status == "unscored" and "give a judge" in found["r4"].score.reason
    assert evaluation.plan.protocol["judge"] == {"model": "judge"}


def test_engine_and_server_go_together():
    with pytest.raises(ValueError, match="go together"):
        EvaluationSettings(engine="openai")
    with pytest.raises(ValueError, match="go together"):
        EvaluationSettings(server=ServerSettings(base_url="http://h/v1", model="m"))
