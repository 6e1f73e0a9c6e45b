"""Rewards beside their peers: rules per second on one core, and throughput of the judge.

    python benchmarks/rewards.py             both parts
    python benchmarks/rewards.py rules       ours, math-verify alone, the loop of the published reference
    python benchmarks/rewards.py judge       3,072 completions, 200 ms latency, concurrency 64

The first part scores the golden table, with reasoning of a realistic length in front of each answer. The peers see the
same completions. ``wrong paid`` and ``right refused`` count the verdicts on which a scorer differs from the table.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import string
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import Process, Queue, get_context
from pathlib import Path
from typing import Any

from qwenlong_core.records import Completion, Example
from qwenlong_core.rewards.hybrid import score_by_rule, score_completions_sync
from qwenlong_core.rewards.judge import Judge
from qwenlong_core.settings.rewards import JudgeSettings, RewardSettings

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "rewards.jsonl"
REASONING = (
    "We add the two segments, check the note on page 12, and compare with the table. " * 75
)  # about 1,500 tokens
COMPLETIONS, LATENCY_SECONDS, CONCURRENCY = 3_072, 0.2, 64

Scorer = Callable[[dict[str, Any]], float]


def table() -> list[dict[str, Any]]:
    """Golden cases with reasoning in front, without those that test <think> itself."""
    rows = [json.loads(line) for line in GOLDEN.read_text().splitlines()]
    rows = [row for row in rows if "think" not in row["completion"].lower() and "finish_reason" not in row]
    return [{**row, "completion": f"<think>{REASONING}</think>\n\n{row['completion']}"} for row in rows]


def ours(row: dict[str, Any]) -> float:
    scale = {"answer_scale": row["answer_scale"]} if "answer_scale" in row else {}
    example = Example(
        id=row["id"],
        source="golden",
        domain="math",
        answer_type=row["answer_type"],
        context="",
        question=row.get("question", ""),
        answers=tuple(row["answers"]),
        choices=tuple(row.get("choices", ())),
        metadata=scale,
    )
    completion = Completion(text=row["completion"], token_ids=(), finish_reason="stop")
    return score_by_rule(example, completion, RewardSettings()).score.rule or 0.0


def math_verify_alone(row: dict[str, Any]) -> float:
    """math-verify with its defaults on the text after the thinking, as in TRL's ``accuracy_reward``."""
    from math_verify import parse, verify

    said = row["completion"].split("</think>")[-1]
    return float(any(verify(parse(gold), parse(said)) for gold in row["answers"]))


def reference(row: dict[str, Any]) -> float:
    """QwenLong-L1's published rule, abridged: containment in both directions for text, any power of ten for numbers."""
    said, gold = row["completion"].split("</think>")[-1], row["answers"][0]
    if row["answer_type"] == "choice":
        letter = re.search(r"The correct answer is \(?([A-D])\)?", said.replace("*", ""))
        return float(letter is not None and letter[1] == gold)
    if row["answer_type"] == "number":
        found, wanted = (re.search(r"[\d,]*\.?\d+", t.lower().split("the answer is", 1)[-1]) for t in (said, gold))
        if not found or not wanted:
            return 0.0
        a, b = (abs(float(m[0].replace(",", ""))) for m in (found, wanted))
        close = any(abs(a * k - b) <= 0.0015 * abs(b) for k in (1, 100, 1000, 100_000, 0.01, 0.001, 0.00001))
        power = a > 0 and b > 0 and math.isfinite(a) and math.log10(a / b).is_integer()
        return float(close or power)
    said, gold = _squad(said.split("the answer is")[-1]), _squad(gold)
    return float(gold in said or said in gold)


def _squad(text: str) -> str:
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def measure(scorer: Scorer, rows: list[dict[str, Any]], seconds: float = 3.0) -> tuple[float, int, int]:
    """Completions per second of one process, wrong answers paid, right answers refused."""
    paid = [(scorer(row) >= 1.0, row["rule"] == 1.0) for row in rows]
    count, start = 0, time.process_time()
    while time.process_time() - start < seconds:
        for row in rows:
            scorer(row)
        count += len(rows)
    rate = count / (time.process_time() - start)
    return rate, sum(p and not right for p, right in paid), sum(right and not p for p, right in paid)


def rules() -> None:
    rows = table()
    print(f"rules: {len(rows)} completions of about {len(REASONING):,} characters, one core")
    print(f"{'scorer':24}{'all/s':>12}{'numbers/s':>12}{'wrong paid':>12}{'right refused':>15}")
    numbers = [row for row in rows if row["answer_type"] == "number"]
    for name, scorer, own in (
        ("ours", ours, rows),
        ("math-verify (numbers)", math_verify_alone, numbers),
        ("reference loop", reference, rows),
    ):
        rate, wrong, refused = measure(scorer, own)
        numeric = rate if own is numbers else measure(scorer, numbers)[0]
        everything = "-" if own is numbers else f"{rate:,.0f}"
        print(f"{name:24}{everything:>12}{numeric:>12,.0f}{f'{wrong}/{len(own)}':>12}{f'{refused}/{len(own)}':>15}")


def judge() -> None:
    """Throughput against a server that answers every request exactly after the latency."""
    with slow_server(LATENCY_SECONDS) as url:
        client = Judge(JudgeSettings(base_url=url, model="m", concurrency=CONCURRENCY))
        example = Example(
            id="e",
            source="b",
            domain="multihop",
            answer_type="span",
            context="",
            question="Where?",
            answers=("Paris",),
        )
        completions = [
            Completion(
                text=f"<think>{REASONING}</think>The answer is city number {i}.",
                token_ids=(),
                finish_reason="stop",
            )
            for i in range(COMPLETIONS)
        ]
        score_completions_sync(
            [example],
            [Completion(text="The answer is Rome.", token_ids=(), finish_reason="stop")],
            RewardSettings(),
            None,
            client,
        )
        # The call above opened the connections, as the health check before a run does.
        start, cpu = time.perf_counter(), time.process_time()
        scores = score_completions_sync([example] * COMPLETIONS, completions, RewardSettings(), None, client)
        took, busy = time.perf_counter() - start, time.process_time() - cpu
    ideal = COMPLETIONS / CONCURRENCY * LATENCY_SECONDS
    unscored = sum(score.status == "unscored" for score in scores)
    print(
        f"judge: {COMPLETIONS:,} completions, {LATENCY_SECONDS * 1000:.0f} ms, concurrency {CONCURRENCY}: ",
        end="",
    )
    print(f"{took:.2f} s, ideal {ideal:.2f} s, ratio {took / ideal:.2f}, client CPU {busy:.2f} s, unscored {unscored}")


@contextmanager
def slow_server(latency: float) -> Iterator[str]:
    """A keep-alive server in a separate process, so that it does not slow down the client's event loop."""
    context = get_context("spawn")
    ports: Queue[int] = context.Queue()
    process: Process = context.Process(target=_serve, args=(latency, ports), daemon=True)  # type: ignore[assignment]
    process.start()
    try:
        yield f"http://127.0.0.1:{ports.get(timeout=60)}/v1"
    finally:
        process.terminate()
        process.join()


def _serve(latency: float, ports: Queue[int]) -> None:
    message = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": "They differ. [[NO]]"},
    }
    usage = {"prompt_tokens": 250, "completion_tokens": 9, "total_tokens": 259}
    body = json.dumps(
        {
            "id": "c",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [message],
            "usage": usage,
        }
    ).encode()
    reply = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while header := await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(int(re.search(rb"content-length: (\d+)", header.lower())[1]))  # type: ignore[index]
                await asyncio.sleep(latency)
                writer.write(reply)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0, backlog=1024)
        ports.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


if __name__ == "__main__":
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it reports every text it cannot parse
    parts = {"rules": rules, "judge": judge}
    for part in sys.argv[1:] or parts:
        parts[part]()
