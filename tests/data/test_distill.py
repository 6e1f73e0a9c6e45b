"""The distill stage against a scripted teacher on loopback: counts, the log, failures, price; and from files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from endpoint_server import Respond, Served, raw, says, served

from qwenlong_core.data.distill import run
from qwenlong_core.data.rows import read_examples, write_examples
from qwenlong_core.jobs import DistillJob
from qwenlong_core.records import Example
from qwenlong_core.settings.distill import DistillSettings, TeacherSettings
from qwenlong_core.stage_main import OUTPUT

ROWS = [
    Example(
        id=f"r{i}", source="t", domain="math", answer_type="number", context=f"Sales were ${i}5 million.",
        question="How much?", answers=(f"${i}5 million",), num_tokens=100,
    )
    for i in range(1, 5)
]  # fmt: skip
REFUSED = raw(b'{"error": {"message": "no"}}', "400 Bad Request")


def asked_about(request: dict[str, Any]) -> str:
    found = re.search(r"Sales were \$(\d+) million", request["messages"][0]["content"])
    assert found
    return found[1]


def solves(request: dict[str, Any], thought: str = "I read it.") -> Respond:
    text = f"<think>{thought}</think>\n\nTherefore, the answer is ${asked_about(request)} million."
    return says(text, usage=(100, 10))


class Place:
    """Inputs, work folders and the answers' folder of one test."""

    def __init__(self, tmp_path: Path, policy_folder: Path) -> None:
        self.path, self.inputs = tmp_path, {"base": policy_folder, "data": tmp_path}
        write_examples(tmp_path / "sft.parquet", ROWS)

    def run(
        self, name: str, server: Served | None = None, teacher: dict[str, Any] | None = None, **changes: Any
    ) -> Any:
        """Run the stage in a work folder; gives the counts of its summary."""
        asked = {"samples": 2, "max_retries": 0, "concurrency": 1} | (teacher or {})
        settings = TeacherSettings(base_url=server.url, model="teacher", **asked) if server else None
        folder = str(self.path / "answers")
        job = DistillJob(
            distill=DistillSettings(teacher=settings, answers_dir=folder, **changes),
            max_row_tokens=500, number_tolerance=1e-6, seed=1,
        )  # fmt: skip
        (self.path / name / OUTPUT).mkdir(parents=True, exist_ok=True)
        run(job, self.inputs, self.path / name)
        return json.loads(self.text(name, "summary.json"))["distill"]

    def text(self, name: str, file: str) -> str:
        return (self.path / name / OUTPUT / file).read_text()

    def rows(self, name: str) -> list[Example]:
        return read_examples(self.path / name / OUTPUT / "sft.parquet")


@pytest.fixture
def place(tmp_path: Path, policy_folder: Path) -> Place:
    return Place(tmp_path, policy_folder)


def test_verified_traces_are_kept_and_all_is_counted_and_priced(place: Place) -> None:
    def choose(number: int, request: dict[str, Any]) -> Respond:
        first = number % 2 == 0
        return {
            "15": solves(request, "long, long" if first else "short"),
            "25": says("Therefore, the answer is $1 million.", usage=(100, 10)) if first else solves(request),
            "35": solves(request) if first else says("no idea", usage=(100, 10)),
            "45": says("so far", finish_reason="length", usage=(100, 10)),
        }[asked_about(request)]

    prices = {"price_per_million_prompt_tokens": 1000.0, "price_per_million_completion_tokens": 20_000.0}
    with served(choose) as server:
        counts = place.run("w", server, prices)
    assert len({request["seed"] for request in server.requests}) == 8, "every sample is a draw of its own"
    expected = {"questions": 4, "solved": 3, "asked": 8, "answered": 8, "failed": 0, "kept": 3, "surplus": 1}
    expected |= {"truncated": 2, "wrong": 1, "no_answer": 1, "prompt_tokens": 800, "completion_tokens": 80}
    assert expected.items() <= counts.items()
    assert counts["cost"] == pytest.approx(800 * 0.001 + 80 * 0.02)
    rows = place.rows("w")
    assert [(row.id, row.solution) for row in rows] == [
        (f"r{i}", f"<think>{thought}</think>\n\nTherefore, the answer is ${i}5 million.")
        for i, thought in ((1, "short"), (2, "I read it."), (3, "I read it."))
    ]
    assert rows[0].metadata == {"teacher": "teacher", "traces": 2, "right_traces": 2}
    dropped = json.loads(place.text("w", "dropped.jsonl"))
    assert (dropped["id"], dropped["reason"]) == ("r4", "no_trace (truncated)")
    last = json.loads(place.text("w", "metrics.jsonl").splitlines()[-1])
    assert (last["step"], last["total_steps"], last["kept"], last["cost"]) == (8, 8, 3, counts["cost"])


def test_other_filters_and_more_samples_ask_only_for_what_is_new(place: Place) -> None:
    with served(lambda number, request: solves(request, f"thought {number}")) as server:
        place.run("first", server)
        two = place.run("second", server, keep_per_question=2)
        assert len(server.requests) == 8, "the answers were there"
        assert two["kept"] == 8 and [row.id for row in place.rows("second")][:2] == ["r1", "r1#trace-2"]
        assert place.run("third", server, {"samples": 3})["answered"] == 12 and len(server.requests) == 12
        place.run("fourth", server, {"temperature": 0.1})
        assert len(server.requests) == 20, "another sampling is another teacher"


def test_a_log_that_was_cut_by_a_kill_goes_on_with_the_same_result(place: Place) -> None:
    def choose(number: int, request: dict[str, Any]) -> Respond:
        return solves(request, f"drawn with {request['seed']}")

    with served(choose) as server:
        whole = place.run("whole", server)
        [log] = (place.path / "answers").glob("*.jsonl")
        lines = log.read_bytes().splitlines(keepends=True)
        log.write_bytes(b"".join(lines[:3]) + lines[3][: len(lines[3]) // 2])
        assert place.run("again", server) == whole
        assert len(server.requests) == 8 + 5, "the three whole lines are not asked again"
    assert place.rows("again") == place.rows("whole") and len(log.read_bytes().splitlines()) == 8


def test_a_failed_request_is_no_wrong_answer_and_is_asked_again(place: Place) -> None:
    def flaky(number: int, request: dict[str, Any]) -> Respond:
        return REFUSED if asked_about(request) == "25" else solves(request)

    with served(flaky) as server:
        with pytest.raises(ConnectionError, match=r"2 of 8 requests .*max_failed_share=0\.05; .*HTTP 400.*Run again"):
            place.run("w", server)
        counts = place.run("w", server, max_failed_share=0.25)
        assert len(server.requests) == 8 + 2
    assert (counts["failed"], counts["answered"], counts["wrong"], counts["solved"]) == (2, 6, 0, 3)
    assert "HTTP 400" in counts["last_error"]
    assert json.loads(place.text("w", "dropped.jsonl"))["reason"] == "no_trace (none was given)"


def test_a_teacher_that_is_down_is_given_up_and_its_answers_stay(place: Place) -> None:
    write_examples(place.path / "sft.parquet", [ROWS[0]])
    with served(lambda number, request: solves(request) if number < 2 else REFUSED) as server:
        with pytest.raises(ConnectionError, match=r"the last 8 requests all failed, such as: .*HTTP 400"):
            place.run("w", server, {"samples": 20})
        assert len(server.requests) == 2 + 8
    with served(lambda number, request: solves(request)) as server:
        [log] = (place.path / "answers").glob("*.jsonl")
        assert len(log.read_bytes().splitlines()) == 2


def test_a_teacher_that_counts_no_tokens_is_not_priced_at_nothing(place: Place) -> None:
    body = {"choices": [{"finish_reason": "stop", "message": {"content": "Therefore, the answer is $15 million."}}]}
    with served(lambda number, request: raw(json.dumps(body).encode())) as server:
        counts = place.run("w", server)
    assert (counts["without_usage"], counts["cost"], counts["kept"]) == (8, 0.0, 1)


def test_when_nothing_is_kept_the_counts_say_why(place: Place) -> None:
    with (
        served(lambda number, request: says("I will not say.")) as server,
        pytest.raises(ValueError, match=r"no trace was kept: 0 traces kept, for 0 of 4 questions; .*no answer 8"),
    ):
        place.run("w", server)


def test_a_missing_key_is_named(place: Place) -> None:
    with (
        served(lambda number, request: solves(request)) as server,
        pytest.raises(ValueError, match=r"distill\.teacher\.api_key_variable='NO_SUCH_KEY' is not set"),
    ):
        place.run("w", server, {"api_key_variable": "NO_SUCH_KEY"})


def test_a_damaged_log_is_named_with_its_line(place: Place) -> None:
    with served(lambda number, request: solves(request)) as server:
        place.run("w", server)
        [log] = (place.path / "answers").glob("*.jsonl")
        log.write_bytes(b"{}\n" + log.read_bytes())
        with pytest.raises(ValueError, match=r"\.jsonl:1 is not an answer .*: delete the line"):
            place.run("w", server)


def test_traces_of_a_file_take_the_place_of_a_teacher(place: Place) -> None:
    solved = "<think>I read it.</think>\n\nTherefore, the answer is $15 million."
    records = [{"id": "r1", "trace": [solved, "Therefore, the answer is $1 million."]}, {"id": "r9", "trace": solved}]
    path = place.path / "traces.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    counts = place.run("w", traces=str(path))
    expected = {"asked": 2, "answered": 2, "kept": 1, "wrong": 1, "records": 2, "unmatched": 1, "solved": 1}
    assert expected.items() <= counts.items()
    assert [(row.id, row.solution, row.metadata["traces"]) for row in place.rows("w")] == [("r1", solved, 2)]
    assert "id 'r9' is that of no row" in place.text("w", "unmatched.jsonl")
    assert not (place.path / "answers").exists()
