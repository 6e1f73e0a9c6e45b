"""A judge's ``concurrency`` bounds the requests of all processes together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from endpoint_server import Respond, says, served
from fsdp_on_cpu import run_processes
from judge_ranks import ANSWERS

from qwenlong_core.rewards.health import PAIRS


def reply(n: int, request: dict[str, Any]) -> Respond:
    """Right on the pairs of the health check, which every process asks first; yes to everything else."""
    asked = json.loads(request["messages"][-1]["content"])
    known = {(question, answer): equal for question, _, answer, equal in PAIRS}
    equal = known.get((asked["question"], asked["candidate_answer"]), True)
    return says("[[YES]]" if equal else "[[NO]]", after=0.2)


def test_two_processes_ask_no_more_at_once_than_the_setting_says(tmp_path: Path) -> None:
    with served(reply) as server:
        run_processes("judge_ranks.py", server.url, 5, tmp_path, processes=2, sharded=False)
    for rank in (0, 1):
        assert json.loads((tmp_path / f"judged-{rank}.json").read_text()) == [1.0] * ANSWERS
    assert len(server.requests) == 2 * (ANSWERS + len(PAIRS))
    assert server.most_open == 5, "3 of one process and 2 of the other"
