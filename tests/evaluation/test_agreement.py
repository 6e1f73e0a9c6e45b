"""Kappa of judges whose verdicts are known: an oracle, a yes-sayer, and one that is down."""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from qwenlong_core.evaluation.agreement import judge_agreement, labelled_pairs
from qwenlong_core.records import Example
from qwenlong_core.rewards.judge import Judge
from qwenlong_core.rewards.rules import rule_score
from qwenlong_core.settings.rewards import JudgeSettings

GOLDS = {
    "number": ("$1.5 million", "12%", "-340", "$867,720"),
    "span": ("Paris", "Marie Curie", "the Lessor", "Order 66"),
}


class Server(ThreadingHTTPServer):
    request_queue_size = 128  # the judge opens many connections at once; the default of 5 refuses some


@pytest.fixture
def rows():
    return [
        Example(
            id=f"{kind}{i}", source="s", domain="math", answer_type=kind, context="", question="Which?", answers=(gold,)
        )
        for kind, golds in GOLDS.items()
        for i, gold in enumerate(golds)
    ]


@pytest.fixture
def serve():
    """``serve(verdict)``: a judge endpoint on loopback; ``verdict(candidate)`` is True, False or a status."""
    servers = []

    def start(verdict):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                said = verdict(json.loads(body["messages"][-1]["content"])["candidate_answer"])
                message = {"role": "assistant", "content": "[[YES]]" if said else "[[NO]]"}
                reply = {
                    "id": "c",
                    "object": "chat.completion",
                    "created": 0,
                    "model": "m",
                    "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                }
                content = json.dumps(reply).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        server = Server(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def agreement(url, pairs):
    async def ask():
        judge = Judge(JudgeSettings(base_url=url, model="m", max_retries=0, timeout_seconds=60))
        try:
            return await judge_agreement(judge, pairs)
        finally:
            await judge.close()

    return asyncio.run(ask())


def test_pairs_are_balanced_reproducible_and_true(rows):
    pairs = labelled_pairs(rows, 12, seed=1)
    assert pairs == labelled_pairs(list(reversed(rows)), 12, seed=1)
    assert sum(pair.equal for pair in pairs) == 6 == len(pairs) // 2
    by_gold = {row.answers: row for row in rows}
    for pair in pairs:
        if by_gold[pair.question.golds].answer_type == "number" or not pair.equal:
            assert (rule_score(pair.question.answer, by_gold[pair.question.golds]).value == 1) is pair.equal, pair


def test_an_oracle_agrees_and_a_yes_sayer_does_not(rows, serve):
    pairs = labelled_pairs(rows, 16, seed=1)
    right = {pair.question.answer for pair in pairs if pair.equal}
    perfect = agreement(serve(lambda answer: answer in right), pairs)
    assert (perfect.kappa, perfect.low, perfect.pairs, perfect.no_verdict) == (1.0, 1.0, len(pairs), 0)
    assert all(right == given for right, given in perfect.by_kind.values())
    lenient = agreement(serve(lambda answer: True), pairs)
    assert lenient.kappa == 0.0
    half = len(pairs) // 2
    assert lenient.confusion == {
        "said equal, is equal": half,
        "said equal, is different": half,
        "said different, is equal": 0,
        "said different, is different": 0,
    }
    equal = {pair.kind for pair in pairs if pair.equal}
    assert all(right == (given if kind in equal else 0) for kind, (right, given) in lenient.by_kind.items())


def test_a_judge_that_is_down_has_no_kappa(rows):
    pairs = labelled_pairs(rows, 8, seed=1)
    down = agreement("http://127.0.0.1:9/v1", pairs)
    assert (down.kappa, down.no_verdict) == (None, len(pairs))


def test_too_few_rows_are_refused(rows):
    with pytest.raises(ValueError, match="at least two"):
        labelled_pairs(rows[:1], 8, seed=1)
