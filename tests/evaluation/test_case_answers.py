"""Each checkpoint answers the two case studies beside its items, in no score."""

from __future__ import annotations

import json

import pytest
from endpoint_server import raw, says, served
from test_runner import evaluate, make_job
from test_served_evaluation import answer, served_job

from qwenlong_core.evaluation.answers import load_answerer
from qwenlong_core.evaluation.ask_cases import CaseStudies
from qwenlong_core.evaluation.cases import CASE_ANSWERS, are_answered, read_case_answers
from qwenlong_core.evaluation.plan import SAMPLES, SCORES
from qwenlong_core.evaluation.rescoring import rescore
from qwenlong_core.evaluation.results import read_evaluation
from qwenlong_core.report.cases import case_rows, case_sections


def is_case(request) -> str | None:
    """``bond``, ``debt``, or nothing for an item of the evaluation."""
    text = request["messages"][0]["content"]
    return "bond" if "senior notes cost" in text else "debt" if "does the term loan of" in text else None


def solver(**said):
    """A server that answers the items, and the cases as given."""
    return lambda n, request: said[case] if (case := is_case(request)) else answer(request)


BOND, DEBT = says("Therefore, the answer is $32.4 million."), says("Therefore, the answer is $904,615.")


def outcomes(folder) -> list[str]:
    return [row["outcome"] for row in case_rows({"sft": folder})]


def test_both_are_asked_once_scored_and_kept_out_of_the_scores(tmp_path, policy, data_folder, rows):
    with served(solver(bond=BOND, debt=DEBT)) as server:
        job = served_job(server, max_prompt_tokens=600, samples=2)
        output = evaluate(job, policy, data_folder, tmp_path / "w")
        assert sorted(filter(None, map(is_case, server.requests))) == ["bond", "debt"]
        assert len(server.requests) == 2 * len(rows) + 2
        evaluate(job, policy, data_folder, tmp_path / "w")
        assert len(server.requests) == 2 * len(rows) + 2, "a finished one asks nothing"
    bond, debt = read_case_answers(output)
    assert (bond.gold, bond.sample.score.extracted, bond.sample.outcome) == ("$32.4 million", "$32.4 million", "right")
    assert (debt.gold, debt.sample.score.extracted, debt.sample.outcome) == ("$980,000", "$904,615", "wrong")
    assert bond.document == debt.document == "short"
    assert bond.sample.lost_tokens == debt.sample.lost_tokens == 0
    evaluation = read_evaluation(output)
    assert {sample.example_id for sample in evaluation.samples} == {row.id for row in rows}
    assert evaluation.scores.overall.items == len(rows)
    assert evaluation.scores.overall.accuracy.mean == 1.0


def test_the_full_report_is_read_where_it_fits(tmp_path, policy, data_folder):
    with served(solver(bond=BOND, debt=DEBT)) as server:
        job = served_job(server, samples=1, max_prompt_tokens=30_000)
        output = evaluate(job, policy, data_folder, tmp_path / "w")
        sent = next(r["messages"][0]["content"] for r in server.requests if is_case(r) == "bond")
    assert "Note 40. Holdings." in sent
    assert [case.document for case in read_case_answers(output)] == ["full", "full"]


def test_what_does_not_fit_is_named_as_not_asked(tmp_path, policy, data_folder):
    output = evaluate(make_job(samples=1), policy, data_folder, tmp_path / "w")
    bond, _ = case_rows({"sft": output})
    assert bond.pop("question").startswith("What did the senior notes cost")
    assert bond == {
        "case": "bond",
        "gold": "$32.4 million",
        "stage": "sft",
        "outcome": "not asked",
        "answer": None,
        "reason": "its prompt is longer than evaluation.max_prompt_tokens=200, even with the short report",
        "report": "",
    }


def test_after_a_kill_between_items_and_cases_a_model_in_this_process_answers_the_cases(tmp_path, policy, data_folder):
    job = make_job(samples=2, max_prompt_tokens=600)
    output = evaluate(job, policy, data_folder, tmp_path / "w")
    first, log = read_case_answers(output), (output / SAMPLES).read_bytes()
    assert all(case.sample.num_tokens <= 12 and case.sample.sample == 0 for case in first)
    (output / CASE_ANSWERS).unlink()
    (output / SCORES).unlink()
    evaluate(job, policy, data_folder, tmp_path / "w")
    assert [case.sample.completion for case in read_case_answers(output)] == [c.sample.completion for c in first]
    assert (output / SAMPLES).read_bytes() == log


def test_among_the_items_a_case_is_answered_as_alone(tmp_path, policy, data_folder):
    job = make_job(samples=2, max_prompt_tokens=600)
    output = evaluate(job, policy, data_folder, tmp_path / "w")
    answerer = load_answerer(job.evaluation, policy, job.model, job.launch, job.seed)
    cases = CaseStudies(answerer.tokenizer, 600, "brackets")
    alone = {}
    for case in cases.asked:
        [[answer]] = answerer.answers([case], {(case.id, 0)})
        alone[case.id] = answer.completion.text
    assert {case.sample.example_id: case.sample.completion for case in read_case_answers(output)} == alone
    assert len(alone) == 2


def test_a_failed_request_is_an_error_and_asked_again(tmp_path, policy, data_folder):
    down = raw(b'{"error": {"message": "no"}}', "400 Bad Request")
    with served(solver(bond=down, debt=DEBT)) as server:
        output = evaluate(served_job(server, samples=1, max_prompt_tokens=600), policy, data_folder, tmp_path / "w")
    assert outcomes(output) == ["error", "wrong"]
    assert not are_answered(output)
    with served(solver(bond=BOND, debt=DEBT)) as server:
        evaluate(served_job(server, samples=1, max_prompt_tokens=600), policy, data_folder, tmp_path / "w")
        assert sorted(map(is_case, server.requests)) == ["bond", "debt"]
    assert outcomes(output) == ["right", "wrong"]
    assert read_evaluation(output).scores.overall.items == 10


def test_without_documents_they_are_not_asked(tmp_path, policy, data_folder):
    job = make_job(document="none", samples=1, max_prompt_tokens=600)
    output = evaluate(job, policy, data_folder, tmp_path / "w")
    assert not (output / CASE_ANSWERS).exists()
    assert case_rows({"probe": output}) == case_sections({"probe": output}, 100) == []


def test_scored_again_they_follow_the_rules_of_the_job(tmp_path, policy, data_folder):
    near = says("Therefore, the answer is $32.3 million.")
    with served(solver(bond=near, debt=DEBT)) as server:
        output = evaluate(served_job(server, samples=1, max_prompt_tokens=600), policy, data_folder, tmp_path / "w")
    lenient = make_job(samples=1).model_copy(update={"number_tolerance": 0.02})
    rescore(lenient, output, data_folder, tmp_path / "again")
    assert outcomes(output) == ["wrong", "wrong"]
    assert outcomes(tmp_path / "again") == ["right", "wrong"]


def test_a_damaged_log_is_named(tmp_path):
    (tmp_path / CASE_ANSWERS).write_text(json.dumps({"case": "bond"}) + "\n")
    with pytest.raises(ValueError, match=r"cases\.jsonl is damaged .*evaluate again"):
        read_case_answers(tmp_path)
