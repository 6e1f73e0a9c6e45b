"""Processes that ask one judge at once: ``run_processes("judge_ranks.py", URL, CONCURRENCY, WORK, processes=2)``."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path

from training_jobs import LAUNCH, example, grpo_job

from qwenlong_core.records import Completion
from qwenlong_core.training.grpo import reward_scorer
from qwenlong_core.training.runtime import set_up_process

ANSWERS = 24


def main(url: str, concurrency: int, work: Path) -> None:
    judge = {"base_url": url, "model": "m", "concurrency": concurrency, "max_retries": 0}
    job = grpo_job(rewards={"judge": judge}, launch=LAUNCH | {"num_processes": 2})
    state = set_up_process(job.launch)
    score = reward_scorer(job, state.process_index)
    state.wait_for_everyone()
    named = replace(example(0), answer_type="span", answers=("Anna",))
    texts = [f"Therefore, the answer is Berta {state.process_index}-{i}." for i in range(ANSWERS)]
    done = [Completion(text=text, token_ids=(1,), finish_reason="stop") for text in texts]
    scores = asyncio.run(score([named] * ANSWERS, done))
    (work / f"judged-{state.process_index}.json").write_text(json.dumps([one.judge for one in scores]))
    state.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
