"""The runner on a real (tiny, random) model: resumable, exact, and honest about what it cut."""

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from qwenlong_core.data.rows import dataset_digest, read_examples, write_examples
from qwenlong_core.evaluation.answers import batches
from qwenlong_core.evaluation.plan import PLAN, SAMPLES, SCORES, Plan, choose_items
from qwenlong_core.evaluation.rescoring import rescore
from qwenlong_core.evaluation.results import read_evaluation
from qwenlong_core.evaluation.runner import check_unscored, run
from qwenlong_core.evaluation.samples import append_samples, read_samples
from qwenlong_core.jobs import EvaluateJob
from qwenlong_core.records import Example, Score
from qwenlong_core.settings.evaluation import EvaluationSettings
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.settings.rewards import JudgeSettings
from qwenlong_core.settings.running import LaunchSettings
from qwenlong_core.stage_main import OUTPUT


def make_job(seed=7, **changes) -> EvaluateJob:
    settings = dict(
        max_prompt_tokens=200,
        max_completion_tokens=12,
        temperature=0.7,
        samples=2,
        batch_size=3,
        bootstrap_resamples=200,
    )
    return EvaluateJob(
        evaluation=EvaluationSettings(**settings | changes),
        number_tolerance=0.0015,
        model=ModelSettings(name="tiny"),
        launch=LaunchSettings(),
        seed=seed,
    )


def evaluate(job, model, data, work):
    (work / OUTPUT).mkdir(parents=True, exist_ok=True)
    run(job, {"model": model, "data": data}, work)
    return work / OUTPUT


@pytest.fixture(scope="session")
def finished(tmp_path_factory, policy, rows):
    """A finished work folder of ``make_job()``; tests copy it."""
    root = tmp_path_factory.mktemp("finished")
    write_examples(root / "eval.parquet", rows)
    evaluate(make_job(), policy, root, root / "w")
    return root / "w"


@pytest.fixture
def work(tmp_path, finished):
    return shutil.copytree(finished, tmp_path / "w")


def timeless(samples):
    return sorted((replace(sample, seconds=0) for sample in samples), key=lambda sample: sample.key)


def test_every_item_is_answered_once_and_written_down(tmp_path, policy, data_folder, rows, caplog):
    caplog.set_level(logging.INFO)
    output = evaluate(make_job(), policy, data_folder, tmp_path / "w")
    evaluation = read_evaluation(output)
    assert {s.key for s in evaluation.samples} == {(row.id, n) for row in rows for n in (0, 1)}
    by_id = {sample.example_id: sample for sample in evaluation.samples}
    assert by_id["r9"].lost_tokens > 0 and by_id["r9"].prompt_tokens <= 200
    assert by_id["r0"].lost_tokens == 0 and by_id["r0"].document_id == "d0"
    assert by_id["r8"].document_id == "r8"
    assert all(s.num_tokens <= 12 and s.finish_reason in ("stop", "length") for s in evaluation.samples)
    assert evaluation.scores.overall.truncated_prompts == 2
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [6, 12, 18, 20]
    assert lines[-1]["accuracy"] == pytest.approx(evaluation.scores.overall.accuracy.mean)
    assert any(record.message.startswith("evaluate 20/20 | acc 0.") for record in caplog.records)


def test_a_finished_evaluation_is_a_no_op(work, policy, data_folder):
    output = work / OUTPUT
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in output.iterdir()}
    evaluate(make_job(), policy, data_folder, work)
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in output.iterdir()} == before


@pytest.mark.parametrize("kept", [0.13, 0.77, 0.999])
def test_cut_anywhere_it_goes_on_to_the_same_samples(work, finished, policy, data_folder, kept):
    output = work / OUTPUT
    log = (output / SAMPLES).read_bytes()
    (output / SAMPLES).write_bytes(log[: int(len(log) * kept)])
    (output / SCORES).unlink()
    evaluate(make_job(), policy, data_folder, work)
    assert timeless(read_samples(output / SAMPLES)) == timeless(read_samples(finished / OUTPUT / SAMPLES))
    assert read_evaluation(output).scores == read_evaluation(finished / OUTPUT).scores


def test_another_seed_samples_otherwise(tmp_path, policy, data_folder):
    logs = [
        timeless(read_samples(evaluate(make_job(seed), policy, data_folder, tmp_path / str(seed)) / SAMPLES))
        for seed in (1, 2)
    ]
    assert [s.prompt_digest for s in logs[0]] == [s.prompt_digest for s in logs[1]]
    assert [s.completion for s in logs[0]] != [s.completion for s in logs[1]]


def test_a_log_is_not_continued_by_another_evaluation(work, policy, data_folder):
    with pytest.raises(ValueError, match=r"another evaluation \(other seed\)"):
        evaluate(make_job(seed=8), policy, data_folder, work)
    with pytest.raises(ValueError, match="other protocol"):
        evaluate(make_job(temperature=0.0), policy, data_folder, work)


def test_a_log_goes_on_only_with_the_prompts_it_began_with(tmp_path, policy, data_folder):
    """A template that hides a clock from us stands for all that renders another prompt later."""
    clock = shutil.copytree(policy, tmp_path / "clock")
    (clock / "chat_template.jinja").write_text("{% set f = '%f' %}{{ strftime_now(f) }}{{ messages[0]['content'] }}")
    output = evaluate(make_job(), clock, data_folder, tmp_path / "work")
    log = (output / SAMPLES).read_bytes()
    (output / SAMPLES).write_bytes(log[: len(log) // 2])
    (output / SCORES).unlink()
    with pytest.raises(ValueError, match=r"the prompt of item '.*' is not the one that the log's answers belong to"):
        evaluate(make_job(), clock, data_folder, tmp_path / "work")
    assert len((output / SAMPLES).read_bytes()) <= len(log) // 2


def test_rows_that_changed_are_another_evaluation(work, policy, data_folder, rows):
    write_examples(data_folder / "eval.parquet", [replace(rows[0], answers=("changed",)), *rows[1:]])
    with pytest.raises(ValueError, match="other dataset_digest"):
        evaluate(make_job(), policy, data_folder, work)


def test_limit_takes_the_same_rows_of_each_domain_and_more(rows):
    few = {row.id for row in choose_items(rows, 2)}
    more = {row.id for row in choose_items(list(reversed(rows)), 3)}
    assert few < more
    assert sum(row.domain == "math" for row in rows if row.id in few) == 2 == len(few) // 2
    assert choose_items(rows, None) == choose_items(list(reversed(rows)), None)


def test_limit_counts_each_benchmark_of_a_domain_apart(rows):
    other = [replace(row, id=f"other-{row.id}", source="other") for row in rows]
    taken = [row for row in choose_items([*rows, *other], 2) if row.domain == "math"]
    assert sorted(row.source for row in taken) == ["made", "made", "other", "other"]


def test_questions_on_one_document_stand_together():
    rows = [
        Example(
            id=f"q{i}",
            source="s",
            domain="math",
            answer_type="span",
            context=f"text {i % 3}",
            question="?",
            answers=("a",),
            document_id=f"d{i % 3}",
        )
        for i in range(9)
    ]
    documents = [row.document_id for row in choose_items(rows, None)]
    assert documents == sorted(documents)


def test_digest_sees_every_field_but_not_the_order(rows):
    digest = dataset_digest(rows)
    assert dataset_digest(reversed(rows)) == digest
    assert dataset_digest([*rows[:-1], replace(rows[-1], question="Other?")]) != digest
    assert dataset_digest(rows[:-1]) != digest


def test_rescore_needs_no_model(tmp_path, work, data_folder):
    output = work / OUTPUT
    right = [replace(s, completion=f"The answer is {s.example_id[1:]}.") for s in read_samples(output / SAMPLES)]
    (output / SAMPLES).unlink()
    append_samples(output / SAMPLES, right)
    rescore(make_job(), output, data_folder, tmp_path / "again")
    evaluation = read_evaluation(tmp_path / "again")
    assert evaluation.scores.overall.accuracy.mean == 1.0
    assert evaluation.plan == Plan.model_validate_json((output / PLAN).read_text())


def test_rescore_refuses_other_rows(tmp_path, work, data_folder):
    output = work / OUTPUT
    write_examples(data_folder / "eval.parquet", read_examples(data_folder / "eval.parquet")[1:])
    with pytest.raises(ValueError, match="is not the data that"):
        rescore(make_job(), output, data_folder, tmp_path / "again")


def test_a_judge_that_is_down_stops_before_the_first_answer(tmp_path, policy, data_folder):
    judge = JudgeSettings(base_url="http://127.0.0.1:9/v1", model="judge", max_retries=0, timeout_seconds=2)
    with pytest.raises(RuntimeError, match="gave no verdict"):
        evaluate(make_job(judge=judge), policy, data_folder, tmp_path / "w")
    assert not (tmp_path / "w" / OUTPUT / SAMPLES).read_bytes()


def leave_without_verdict(output, every):
    """What a judge that died half-way leaves in the log of an unfinished evaluation."""
    unscored = Score(value=None, status="unscored", reason="connection refused")
    samples = read_samples(output / SAMPLES)
    (output / SAMPLES).unlink()
    (output / SCORES).unlink()
    changed = [replace(sample, score=unscored) if i % every == 0 else sample for i, sample in enumerate(samples)]
    append_samples(output / SAMPLES, changed)
    return changed


def test_answers_left_without_a_verdict_are_judged_again_not_sampled_again(work, finished, policy, data_folder):
    output = work / OUTPUT
    leave_without_verdict(output, every=3)
    evaluate(make_job(), policy, data_folder, work)
    assert read_samples(output / SAMPLES) == read_samples(finished / OUTPUT / SAMPLES), (
        "same answers, same times, scored"
    )


def test_a_judge_that_died_fails_the_stage_instead_of_lowering_the_score(work):
    samples = leave_without_verdict(work / OUTPUT, every=5)
    with pytest.raises(RuntimeError, match=r"4 of 20 answers are unscored.*connection refused.*answers are kept"):
        check_unscored(samples, 0.19)
    check_unscored(samples, 0.2)


def test_what_prepare_cut_counts_as_lost(tmp_path, policy, rows):
    write_examples(tmp_path / "eval.parquet", [replace(rows[0], metadata={"lost_tokens": 40}), rows[2]])
    output = evaluate(make_job(samples=1), policy, tmp_path, tmp_path / "w")
    lost = {sample.example_id: sample.lost_tokens for sample in read_samples(output / SAMPLES)}
    assert lost == {"r0": 40, "r2": 0}


def test_the_probe_asks_without_the_document(tmp_path, policy, data_folder, finished):
    output = evaluate(make_job(document="none", samples=1), policy, data_folder, tmp_path / "w")
    asked = {sample.example_id: sample for sample in read_samples(output / SAMPLES)}
    whole = {sample.example_id: sample for sample in read_samples(finished / OUTPUT / SAMPLES)}
    # The questions differ in one digit, so without their documents all prompts have one length.
    assert len({sample.prompt_tokens for sample in asked.values()}) == 1
    assert asked["r9"].lost_tokens == 0 and asked["r9"].prompt_tokens < whole["r9"].prompt_tokens
    assert asked["r9"].document_id == whole["r9"].document_id


def test_questions_on_one_document_go_into_one_call(rows):
    """Calls of two rows; the third and fourth question on a document go with its first two, the 17th does not."""
    alone, many = rows[0], rows[1]
    asked = [
        alone,
        *(replace(many, id=f"q{n}") for n in range(3)),
        rows[2],
        *(replace(many, id=f"p{n}") for n in range(19)),
    ]
    calls = [[row.id for row in call] for call in batches(asked, 2)]
    assert calls == [
        ["r0", "q0", "q1", "q2"],
        ["r2", *(f"p{n}" for n in range(15))],
        ["p15", "p16", "p17", "p18"],
    ]
    assert [len(call) for call in batches(asked, 20)] == [20, 4]
    assert list(batches([], 3)) == []


def test_without_rows_it_says_so(tmp_path, policy):
    write_examples(tmp_path / "eval.parquet", [])
    with pytest.raises(ValueError, match="no evaluation rows"):
        evaluate(make_job(), policy, tmp_path, tmp_path / "w")


@pytest.mark.slow
def test_killed_ten_times_at_random_it_answers_each_item_once(tmp_path, policy, rows):
    # Documents of their own: questions on one document would go into one call, and there would be fewer to kill.
    many = [replace(row, id=f"{row.id}-{n}", context=f"{row.context} ({n})") for row in rows for n in range(4)]
    write_examples(tmp_path / "eval.parquet", many)
    job = make_job(temperature=0.0, samples=1, batch_size=1, max_completion_tokens=100)
    whole = evaluate(job, policy, tmp_path, tmp_path / "whole")
    (tmp_path / "job.json").write_text(job.model_dump_json())
    command = [
        sys.executable,
        "-m",
        "qwenlong_core.evaluation.runner",
        "--job",
        str(tmp_path / "job.json"),
        "--input",
        f"model={policy}",
        "--input",
        f"data={tmp_path}",
        "--work",
        str(tmp_path / "killed"),
    ]
    log, rng = tmp_path / "killed" / OUTPUT / SAMPLES, random.Random(5)
    for _ in range(10):
        start = log.stat().st_size if log.exists() else 0
        process = subprocess.Popen(command, start_new_session=True)
        while process.poll() is None and (not log.exists() or log.stat().st_size <= start):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        assert process.poll() is None, "it finished before it could be killed: give it more rows"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert len(log.read_bytes().splitlines()) < len(many)
    subprocess.run(command, check=True)
    assert timeless(read_samples(log)) == timeless(read_samples(whole / SAMPLES))
    assert read_evaluation(log.parent).scores == read_evaluation(whole).scores
