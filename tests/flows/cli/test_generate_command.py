import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from qwenlong.flows.cli.generate import generate, policy_tokenizer
from qwenlong_core.data.prompts import prompt_tokens
from qwenlong_core.data.sources.read import read_source
from qwenlong_core.records import Example

app = typer.Typer()
app.command()(generate)


def call(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_rows_are_a_source_for_training(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    result = call("--tokens", 300, "--n", 8, "--seed", 3, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert (said["rows"], said["domains"]) == (8, {"math": 3, "logical": 3, "multihop": 2})
    rows = [row for row in read_source(str(out)) if isinstance(row, Example)]
    assert len(rows) == 8
    tokenizer = policy_tokenizer("smollm2-135m")
    for row in rows:
        assert abs(prompt_tokens(tokenizer, row) - 300) <= 6
        assert row.solution
        assert row.metadata["evidence"]


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert call("--tokens", 400, "--n", 4, "--seed", seed, "--out", tmp_path / name).exit_code == 0
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


def test_options_reach_the_generator(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    arguments = ["--domain", "multihop", "--language", "zh", "--depth", 1, "--distractors", 2, "--kind", "bridge_2"]
    result = call("--tokens", 700, "--to-tokens", 900, "--n", 2, "--out", out, *arguments)
    assert result.exit_code == 0, result.output
    rows = [row for row in read_source(str(out)) if isinstance(row, Example)]
    assert [row.metadata["language"] for row in rows] == ["zh", "zh"]
    assert all(row.metadata["kind"] == "bridge_2" and row.metadata["distractors"] <= 2 for row in rows)
    assert all(min(row.metadata["evidence_depth"]) > 0.7 for row in rows)
    assert "700" in rows[0].id
    assert "900" in rows[1].id


def test_wrong_options_leave_no_file(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    assert "'poetry' is none of mixed, math" in " ".join(
        call("--tokens", 300, "--domain", "poetry", "--out", out).output.split()
    )
    failed = call("--tokens", 130, "--domain", "logical", "--n", 2, "--out", out)
    assert failed.exit_code == 2
    assert "ask for longer documents" in failed.output
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_used_is_refused_before_the_first_row(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file where a folder should be")
    refused = {
        f"--out {tmp_path} is a folder": ["--out", tmp_path],
        f"--out='{taken}' cannot be written": ["--out", taken / "rows.jsonl"],
        f"--model {tmp_path}: holds no tokenizer": ["--out", tmp_path / "rows.jsonl", "--model", tmp_path],
        f"--model {taken}: holds no tokenizer": ["--out", tmp_path / "rows.jsonl", "--model", taken],
    }
    for said, arguments in refused.items():
        result = call("--tokens", 300, "--n", 1_000_000, *arguments)
        assert result.exit_code == 2 and said in result.output, result.output
    assert list(tmp_path.iterdir()) == [taken]


def test_a_teachers_address_with_a_password_is_refused_and_not_repeated(tmp_path: Path) -> None:
    teacher = ["--teacher", "http://me:hunter2@127.0.0.1:9", "--teacher-model", "m"]
    result = call("--tokens", 300, "--n", 1, "--out", tmp_path / "rows.jsonl", *teacher)
    assert result.exit_code == 2 and "carries a password" in result.output and "hunter2" not in result.output


def test_a_teacher_keeps_only_the_rows_it_solves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where its answers are kept
    plain, taught = tmp_path / "plain.jsonl", tmp_path / "taught.jsonl"
    arguments = ["--domain", "math", "--tokens", 300, "--n", 6, "--seed", 5, "--json"]
    assert call(*arguments, "--out", plain).exit_code == 0
    rows = [row for row in read_source(str(plain)) if isinstance(row, Example)]
    known = {row.context: row.answers[0] for row in rows[:4]}

    class Teacher(BaseHTTPRequestHandler):
        """Knows the answers of four documents."""

        def do_POST(self) -> None:
            prompt = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][0]["content"]
            answer = next((gold for context, gold in known.items() if context in prompt), "$0.1 million")
            message = {"role": "assistant", "content": f"<think>I read it.</think> Therefore, the answer is {answer}."}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            reply = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
            body = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Teacher) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        result = call(*arguments, "--out", taught, "--teacher", url, "--teacher-model", "m", "--teacher-samples", 1)
        server.shutdown()
    assert result.exit_code == 0, result.output
    counts = json.loads(result.stdout)["teacher"]
    assert (counts["questions"], counts["kept"], counts["wrong"]) == (6, 4, 2)
    kept = [row for row in read_source(str(taught)) if isinstance(row, Example)]
    assert [row.id for row in kept] == [row.id for row in rows[:4]]
    assert all((row.solution or "").startswith("<think>I read it.") for row in kept)
