"""``qwenlong score`` as a user runs it: a process, files and pipes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from endpoint_server import hang, says, served
from reward_cases import cases

from qwenlong_core.rewards.stream import MAX_LINE_BYTES

ROOT = Path(__file__).parents[3]
COMMAND = [sys.executable, "-m", "qwenlong.flows.cli", "score"]


def run(stdin: bytes, *arguments: str) -> tuple[int, list[dict[str, Any]], str]:
    done = subprocess.run(
        [*COMMAND, *arguments],
        input=stdin,
        capture_output=True,
        cwd=ROOT,
        timeout=300,
        env={**os.environ, "COLUMNS": "200"},
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode()


def line(**row: Any) -> bytes:
    base = {"id": "1", "answer_type": "span", "answers": ["Paris"], "completion": "The answer is Paris."}
    return json.dumps({**base, **row}).encode() + b"\n"


def golden_lines(copies: int = 1) -> list[dict[str, Any]]:
    keep = ("answer_type", "answers", "choices", "question", "answer_scale", "completion", "finish_reason")
    return [
        {"id": f"{i}/{case['id']}", **{k: case[k] for k in keep if k in case}}
        for i in range(copies)
        for case in cases()
    ]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_golden_table_comes_out_in_order_with_its_scores(workers: str, tmp_path: Path) -> None:
    rows = golden_lines(copies=3)
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, _ = run(b"", str(path), "--workers", workers)
    assert code == 0
    assert [row["id"] for row in out] == [row["id"] for row in rows]
    assert [row["rule"] for row in out] == [case["rule"] for case in cases()] * 3
    assert set(out[0]) == {"id", "value", "rule", "judge", "length_penalty", "extracted", "status", "reason"}


@pytest.mark.parametrize(
    ("row", "said", "rule"),
    [
        ({"answers": ["32"]}, "32.0", 1.0),  # a number
        ({"answers": ["32"], "domain": "multihop"}, "32.0", 0.0),  # a name, such as a title
        ({"answers": ["No"]}, "no", 1.0),
        ({"answers": ["B"], "choices": ["London", "Paris"]}, "(B) Paris", 1.0),
        ({"answers": ["unanswerable"]}, "the document does not say", 1.0),
        ({"answers": ["Marie Curie"]}, "marie curie", 1.0),
    ],
)
def test_an_answer_type_that_is_missing_is_inferred(row: dict[str, Any], said: str, rule: float) -> None:
    given = {"id": 1, "completion": f"Therefore, the answer is {said}.", **row}
    code, [scored], _ = run(json.dumps(given).encode())
    assert (code, scored["rule"]) == (0, rule), scored["reason"]


def test_missing_keys_are_named_in_plain_words() -> None:
    code, [scored], _ = run(b'{"id": "a", "prediction": "32"}')
    assert code == 1
    assert scored["reason"] == "line 1: the key 'answers' is missing; the key 'completion' is missing"


BAD = {
    b"{": "Expecting property name",
    b"[1, 2]": "valid dictionary",
    b"null": "valid dictionary",
    b'"x"': "valid dictionary",
    b"\xff\xfe": "can't decode",
    b"[" * 100_000: "recursion",
    line(answer_type="essay").strip(): "answer_type",
    line(answers=[]).strip(): "answers: List should have at least 1 item",
    line(answers="Paris").strip(): "answers: Input should be a valid list",
    line(completion=None).strip(): "completion",
    line(choises=["a"]).strip(): "the key 'choises' looks like 'choices' misspelt: correct or drop it",
    line(answer_Type="span").strip(): "the key 'answer_Type' looks like 'answer_type' misspelt",
    line(completion_token=3).strip(): "the key 'completion_token' looks like 'completion_tokens' misspelt",
    line(id=None).strip(): "id.",
    line(answer_type="number").strip(): "gold 'Paris' is not a number",
    line(answer_type="choice", choices=["a", "b"]).strip(): "one letter in A..B",
    line(answer_type="number", answers=["1"], answer_scale="dozen").strip(): "answer_scale='dozen' is unknown",
    line(completion="x" * (MAX_LINE_BYTES + 10)).strip(): "longer than 8,388,608 bytes",
}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_bad_lines_say_why_and_all_others_are_scored(workers: str) -> None:
    good = line(id="good")
    code, out, summary = run(
        b"".join(bad + b"\n" + good for bad in BAD) + b"\n   \n" + good.strip(), "--workers", workers
    )
    assert code == 1
    assert [row["status"] for row in out] == ["error", "scored"] * len(BAD) + ["scored"]
    for number, (row, reason) in enumerate(zip(out[::2], BAD.values())):
        assert row["reason"].startswith(f"line {2 * number + 1}: ")
        assert reason in row["reason"], row["reason"]
        assert row["value"] is None
    assert all(row["value"] == 1.0 for row in out[1::2])
    assert f"error {len(BAD)}" in summary


def test_keys_that_mean_nothing_here_are_left_alone() -> None:
    code, out, _ = run(line(source="docqa_rl", prompt="Where?", model="m", logprobs=[-0.1]))
    assert (code, out[0]["value"]) == (0, 1.0)


def test_length_penalty_needs_and_uses_the_token_count() -> None:
    lines = line(completion_tokens=95) + line(completion_tokens=10**12) + line()
    code, out, _ = run(lines, "--max-length", "100", "--cache-length", "10")
    assert [row["value"] for row in out] == [0.5, 0.0, None]
    assert [row["length_penalty"] for row in out] == [-0.5, -1.0, None]
    assert 'no "completion_tokens"' in out[2]["reason"]
    assert code == 1


def test_unicode_passes_through_unescaped() -> None:
    _, out, _ = run(line(id="北京", answers=["北京"], completion="答案是北京。"))
    assert (out[0]["id"], out[0]["extracted"], out[0]["value"]) == ("北京", "北京", 1.0)


def test_half_a_surrogate_pair_is_scored_and_written_as_json() -> None:
    code, out, _ = run(line(completion="The answer is \ud800 Paris."))
    assert (code, out[0]["extracted"], out[0]["value"]) == (0, "\ud800 Paris", 0.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-length", "10"], "--max-length and --cache-length go together"),
        (["--max-length", "10", "--cache-length", "20"], "cache_tokens=20"),
        (["--judge", "http://127.0.0.1:9/v1"], "--judge and --judge-model go together"),
        (
            ["--judge", "http://x/v1", "--judge-model", "m", "--judge-key-variable", "NOT_SET_ANYWHERE"],
            "'NOT_SET_ANYWHERE' is not set",
        ),
        (["/nowhere.jsonl"], "/nowhere.jsonl is no file"),
    ],
)
def test_usage_errors_name_the_mend(arguments: list[str], message: str) -> None:
    code, out, errors = run(b"", *arguments)
    assert (code, out) == (2, [])
    assert message in errors


def test_a_judges_address_with_a_password_is_refused_and_not_repeated() -> None:
    code, rows, said = run(line(), "--judge", "http://me:hunter2@127.0.0.1:9", "--judge-model", "m")
    assert code == 2 and rows == []
    assert "carries a password" in said and "hunter2" not in said and "Traceback" not in said


def test_a_verdict_cache_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file where the folder should be")
    code, rows, said = run(line(), "--judge", "http://127.0.0.1:9", "--judge-model", "m", "--judge-cache", str(taken))
    assert code == 2 and rows == [] and "cannot be written" in said and "Traceback" not in said


def test_judge_is_asked_from_the_command(tmp_path: Path) -> None:
    with served(lambda n, r: says("[[YES]]")) as server:
        rows = line(id=1) + line(id=2, completion="The answer is Lutetia.") + line(id=3, completion="hm")
        code, out, _ = run(rows, "--judge", server.url, "--judge-model", "m", "--judge-cache", str(tmp_path))
        assert len(server.requests) == 1
    assert code == 0
    assert [(row["value"], row["rule"], row["judge"], row["status"]) for row in out] == [
        (1.0, 1.0, None, "scored"),
        (1.0, 0.0, 1.0, "scored"),
        (0.0, None, None, "no_answer"),
    ]


def test_a_judge_that_hangs_leaves_lines_unscored_and_says_so() -> None:
    with served(lambda n, r: hang) as server:
        judge = ["--judge", server.url, "--judge-model", "m", "--judge-timeout", "0.1"]
        code, out, summary = run(line(completion="The answer is Lutetia."), *judge)
    assert (code, out[0]["status"], out[0]["value"]) == (1, "unscored", None)
    assert "timeout_seconds=0.1" in out[0]["reason"]
    assert "unscored 1" in summary


def peak_mebibytes(path: Path) -> float:
    code = (
        "import subprocess, sys, resource; subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL,"
        " stderr=subprocess.DEVNULL, check=True);print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *COMMAND, str(path), "--workers", "2"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return int(done.stdout) / 1024


@pytest.mark.slow
def test_a_hundred_thousand_lines_take_no_more_memory_than_a_few_thousand(tmp_path: Path) -> None:
    paths = {lines: tmp_path / f"{lines}.jsonl" for lines in (4_000, 100_000)}
    rows = [
        json.dumps({**row, "completion": "<think>" + "step " * 400 + "</think>" + row["completion"]}) + "\n"
        for row in golden_lines()
    ]
    for lines, path in paths.items():
        with path.open("w") as file:
            for i in range(lines):
                file.write(rows[i % len(rows)])
    small, large = (peak_mebibytes(path) for path in paths.values())
    assert large < small + 40, f"{small:.0f} MiB for 4,000 lines, {large:.0f} MiB for 100,000"
