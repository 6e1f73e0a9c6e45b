"""``qwenlong judge-check`` against a judge on loopback whose mistakes are scripted."""

from __future__ import annotations

import json

import pytest
from endpoint_server import says, served
from typer.testing import CliRunner

from qwenlong.flows.cli.judge_check import labelled_slice
from qwenlong.flows.cli.main import app

PAIRS = labelled_slice(60, seed=7)


def check(url, *arguments):
    command = ["judge-check", "--pairs", "60", *arguments]
    command += [
        "--set",
        f"evaluation.judge.base_url={url}",
        "--set",
        "evaluation.judge.model=m",
        "--set",
        "evaluation.judge.max_retries=0",
    ]
    return CliRunner().invoke(app, command)


def test_the_slice_holds_every_kind_and_is_balanced():
    kinds = {pair.kind: pair.equal for pair in labelled_slice(200, seed=7)}
    assert kinds == {
        "restated": True,
        "other unit": True,
        "near miss": False,
        "other sign": False,
        "other magnitude": False,
        "other gold": False,
        "denied": False,
    }
    assert sum(pair.equal for pair in PAIRS) == 30 == len(PAIRS) // 2
    assert PAIRS == labelled_slice(60, seed=7) != labelled_slice(60, seed=8)


def test_kappa_of_a_judge_with_known_mistakes_is_the_one_worked_out_by_hand():
    """It misses 6 of 30 equal pairs and waves 3 of 30 different ones through.

    By hand: observed agreement (24 + 27) / 60 = 0.85; it says equal 27 times of 60, so chance agreement is
    0.5 * 0.45 + 0.5 * 0.55 = 0.5; kappa = (0.85 - 0.5) / (1 - 0.5) = 0.7.
    """
    texts = [(pair.question.question, pair.question.answer) for pair in PAIRS]
    assert len(set(texts)) == 60
    wrong = {*[t for t, p in zip(texts, PAIRS) if p.equal][:6], *[t for t, p in zip(texts, PAIRS) if not p.equal][:3]}
    right = dict(zip(texts, (pair.equal for pair in PAIRS)))

    def verdict(_number, request):
        asked = json.loads(request["messages"][-1]["content"])
        key = (asked["question"], asked["candidate_answer"])
        return says("[[YES]]" if right[key] is not (key in wrong) else "[[NO]]")

    with served(verdict) as server:
        done = check(server.url, "--json")
        shown = check(server.url)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["evaluation.judge"]
    assert found["kappa"] == pytest.approx(0.7) and found["low"] < 0.7 < found["high"]
    assert list(found["confusion"].values()) == [24, 3, 6, 27]
    assert "kappa 0.700 [" in shown.stdout and "said equal              24             3" in shown.stdout
    assert found["usable"] and "usable: 85% right, and a run asks for 75%" in shown.stdout


def test_a_judge_that_always_says_no_is_not_usable():
    with served(lambda _number, _request: says("[[NO]]")) as server:
        done = check(server.url)
    assert done.exit_code == 1 and "kappa 0.000" in done.stdout
    assert "not usable: 50% right, and a run asks for 75%; take a better judge" in done.stdout


def test_a_judge_that_is_down_fails_the_check_with_the_reason():
    done = check("http://127.0.0.1:9/v1")
    assert done.exit_code == 1 and "no verdict on any of 60 pairs; the last error:" in done.stdout


def test_a_profile_without_a_judge_is_refused():
    done = CliRunner().invoke(app, ["judge-check"])
    assert done.exit_code == 2 and "has no judge to check" in done.output
