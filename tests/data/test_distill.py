import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from qwenlong_core.data.distill import TeacherSettings, distill
from qwenlong_core.records import Example

ROWS = [
    Example(
        id=f"r{i}",
        source="t",
        domain="math",
        answer_type="number",
        context=f"Sales were {i}5 million.",
        question="How much?",
        answers=(f"{i}5 million",),
        solution="own",
    )
    for i in range(1, 5)
]


@contextmanager
def teacher(reply: Callable[[str, int], dict[str, Any] | int]) -> Iterator[str]:
    """A chat-completions server on loopback; ``reply(prompt, n)`` gives a body or an HTTP status."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            result = reply(asked["messages"][0]["content"], asked["n"])
            body = json.dumps({"error": {"message": "no"}} if isinstance(result, int) else result).encode()
            self.send_response(result if isinstance(result, int) else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def completion(*choices: dict[str, Any]) -> dict[str, Any]:
    listed = [
        {"index": i, "finish_reason": c.pop("finish_reason", "stop"), "message": {"role": "assistant", **c}}
        for i, c in enumerate(choices)
    ]
    return {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": listed}


def says(text: str, **more: Any) -> dict[str, Any]:
    return {"content": text, **more}


def settings(url: str, **more: Any) -> TeacherSettings:
    return TeacherSettings(base_url=url, model="teacher", samples=3, max_retries=0, **more)


def test_only_verified_answers_are_kept_and_everything_is_counted() -> None:
    def reply(prompt: str, n: int) -> dict[str, Any] | int:
        assert n == 3
        if "15 million" in prompt:
            return completion(
                says("<think>long, long</think> Therefore, the answer is 15 million."),
                says("<think>short</think> Therefore, the answer is 15 million."),
                says("<think>x</think> Therefore, the answer is 16 million."),
            )
        if "25 million" in prompt:
            return completion(
                says("Therefore, the answer is 25 million.", reasoning_content="read it"),
                says("no idea"),
                says("Therefore, the answer is 25 million.", finish_reason="length"),
            )
        if "35 million" in prompt:
            return completion(*(says("Therefore, the answer is 53 million.") for _ in range(3)))
        return 400

    with teacher(reply) as url:
        kept, counts = distill(ROWS, settings(url))
    assert [(row.id, row.solution) for row in kept] == [
        ("r1", "<think>short</think> Therefore, the answer is 15 million."),
        ("r2", "<think>read it</think>\n\nTherefore, the answer is 25 million."),
    ]
    assert kept[0].metadata["teacher_right"] == 2
    assert (counts.questions, counts.kept, counts.unverified, counts.failed) == (4, 2, 1, 1)
    assert (counts.samples, counts.right, counts.truncated) == (9, 3, 1)
    assert "400" in counts.last_error


def test_a_teacher_that_is_down_is_an_error_not_an_empty_file() -> None:
    with (
        teacher(lambda prompt, n: 500) as url,
        pytest.raises(ConnectionError, match=r"any of 4 questions; last error: .*500"),
    ):
        distill(ROWS, settings(url))


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ValueError, match=r"NO_SUCH_KEY.* is not set"):
        distill(ROWS, settings("http://127.0.0.1:1/v1", api_key_variable="NO_SUCH_KEY"))
