"""An OpenAI-compatible judge that knows how each question was made, and errs at set rates.

It says yes to a town and to its other name. Its errors are fixed by question and answer, as those of a real model at
temperature 0 are: a right answer is refused in :data:`REFUSED` of the cases, a wrong town is accepted in
:data:`ACCEPTED`, and a wrong town under its other name in :data:`ACCEPTED_IN_OTHER_WORDS`. The last rate is higher, as
real judges are more lenient with what they cannot compare word for word; a policy can learn to live off it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from world import OTHER_WORDS

from qwenlong_core.rewards.health import PAIRS

KNOWN = {(question, gold, answer): equal for question, gold, answer, equal in PAIRS}
"""What every judge is asked before a run."""
REFUSED, ACCEPTED, ACCEPTED_IN_OTHER_WORDS = 0.05, 0.05, 0.2


def town_of(answer: str) -> str:
    """The town that an answer names, by either of its names."""
    return answer.strip().rstrip(".").removesuffix(OTHER_WORDS)


def chance(*texts: str) -> float:
    """A number in [0, 1) that is the same for the same texts."""
    return int.from_bytes(hashlib.sha256("\n".join(texts).encode()).digest()[:8]) / 2**64


def verdict(question: str, town: str, answer: str) -> bool:
    """What the judge says of an answer to a question about this town."""
    drawn = chance(question, answer)
    if town_of(answer) == town:
        return drawn >= REFUSED
    return drawn < (ACCEPTED_IN_OTHER_WORDS if answer.strip().rstrip(".").endswith(OTHER_WORDS) else ACCEPTED)


def reply(request: Mapping[str, Any], masks: Mapping[str, str]) -> str:
    """The reply to a chat request with the project's judge prompt.

    Args:
        request: The request's body.
        masks: What the references of masked rows stand for.
    """
    asked = json.loads(request["messages"][1]["content"])
    [gold] = asked["reference_answers"]
    question, answer = asked["question"], asked["candidate_answer"]
    known = KNOWN.get((question, gold, answer))
    yes = verdict(question, masks.get(gold, gold), answer) if known is None else known
    return "[[YES]]" if yes else "[[NO]]"


@contextmanager
def serving(masks: Mapping[str, str]) -> Iterator[str]:
    """The judge on a free port of this machine; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            message = {"role": "assistant", "content": reply(request, masks)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
            body = json.dumps({"object": "chat.completion", "id": "0", "created": 0, "model": request["model"],
                               "choices": [choice], "usage": usage}).encode()  # fmt: skip
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """A line per verdict would drown the progress."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
