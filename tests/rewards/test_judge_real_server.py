"""The judge against a server with a real model: SmolLM2-135M behind ``transformers serve``.

A model this small seldom follows the form of the verdict, so the tests check the protocol: real replies, real token
counts, a verdict if the form is followed, ``unscored`` if it is not, and never a wrong 0.
"""

import asyncio
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwenlong_core.records import Completion, Example
from qwenlong_core.rewards.hybrid import score_completions_sync
from qwenlong_core.rewards.judge import Judge, JudgeQuestion
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.settings.rewards import JudgeSettings, RewardSettings

pytestmark = pytest.mark.slow

QUESTIONS = [
    JudgeQuestion(question="Which city hosts the Louvre?", golds=("Paris",), answer="the French capital"),
    JudgeQuestion(question="Which city hosts the Louvre?", golds=("Paris",), answer="London"),
]


def wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: Path, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"transformers serve was not up in {seconds:.0f} s: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from qwenlong_core.models import import_base

    folder = tmp_path_factory.mktemp("judge") / "smollm2"
    import_base(ModelSettings(name="smollm2-135m"), folder)
    return folder


@pytest.fixture(scope="module")
def settings(policy: Path) -> Iterator[JudgeSettings]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = policy.parent / "serve.log"
    command = [
        str(Path(sys.executable).parent / "transformers"),
        "serve",
        str(policy),
        "--device",
        "cpu",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output, env=environment) as process,
    ):
        try:
            wait_until_healthy(process, f"http://127.0.0.1:{port}", log)
            yield JudgeSettings(
                base_url=f"http://127.0.0.1:{port}/v1",
                model=str(policy),
                concurrency=2,
                timeout_seconds=240,
                max_retries=0,
            )
        finally:
            process.terminate()


def test_a_generating_server_answers_in_the_protocol(settings: JudgeSettings) -> None:
    judge = Judge(settings)
    verdicts = asyncio.run(judge.verdicts(QUESTIONS))
    for verdict in verdicts:
        assert verdict.equal is not None or "no strict verdict in" in verdict.error  # a real reply, not a fault
    assert judge.counts.requests == len(QUESTIONS) + judge.counts.asked_again
    assert judge.counts.prompt_tokens > 100 * len(QUESTIONS)  # the whole prompt went through its chat template
    assert judge.counts.completion_tokens > 0


def test_scores_from_a_generating_server_are_verdicts_or_unscored(settings: JudgeSettings) -> None:
    example = Example(
        id="e",
        source="t",
        domain="multihop",
        answer_type="span",
        context="",
        question=QUESTIONS[0].question,
        answers=("Paris",),
    )
    texts = ["The answer is Paris.", "The answer is the French capital.", "I do not know."]
    completions = [Completion(text=text, token_ids=(), finish_reason="stop") for text in texts]
    judge = Judge(settings)
    right, paraphrased, silent = score_completions_sync([example] * 3, completions, RewardSettings(), None, judge)
    assert (right.value, right.judge) == (1.0, None)
    assert (silent.value, silent.status) == (0.0, "no_answer")
    assert paraphrased.rule == 0.0
    assert (paraphrased.status == "unscored") == (paraphrased.judge is None) == (paraphrased.value is None)
    assert judge.counts.requests == 1 + judge.counts.asked_again  # the judge was asked only about the paraphrase
