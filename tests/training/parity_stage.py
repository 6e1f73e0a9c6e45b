"""The GRPO stage with a reward that a random model can earn: an even sum of token ids.

Run as the real stage is: ``python tests/training/parity_stage.py --job ... --input ... --work ...``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import distributed

from qwenlong_core.jobs import GRPOJob
from qwenlong_core.records import Completion, Example, Score
from qwenlong_core.rewards.bonus import with_bonus
from qwenlong_core.rewards.length import length_penalty
from qwenlong_core.stage_main import stage_main
from qwenlong_core.training.grpo import train_phase
from qwenlong_core.training.rollout import Scorer

CITED = {"paragraphs": {"count": 8, "evidence": [1, 2]}}
"""A random model cites nothing, so its completions get a citation that their tokens decide."""


async def score_parity(examples: Sequence[Example], completions: Sequence[Completion]) -> list[Score]:
    scores = []
    for completion in completions:
        rule = float(sum(completion.token_ids) % 2 == 0)
        penalty = length_penalty(len(completion.token_ids), 8, 2)
        scores.append(Score(value=rule + penalty, rule=rule, length_penalty=penalty, reason="parity"))
    return scores


def run(job: GRPOJob, inputs: Mapping[str, Path], work: Path) -> None:
    try:
        train_phase(job, inputs, work, with_citations(job) if job.rewards.evidence else score_parity)
    except SystemExit:  # at a step boundary, after SIGTERM
        assert job.launch.num_processes == 1 or not distributed.is_initialized()
        raise
    assert job.launch.num_processes == 1 or not distributed.is_initialized()


def with_citations(job: GRPOJob) -> Scorer:
    """The parity reward with the bonus for evidence."""
    bonus = job.rewards.evidence
    assert bonus is not None

    async def score(examples: Sequence[Example], completions: Sequence[Completion]) -> list[Score]:
        known = [replace(example, metadata=CITED) for example in examples]
        cited = [replace(c, text=f"Evidence: [{1 + sum(c.token_ids) // 2 % 3}].") for c in completions]
        scores = await score_parity(examples, completions)
        return with_bonus(known, cited, scores, bonus, job.grpo.group_size)

    return score


if __name__ == "__main__":
    stage_main(GRPOJob, run)
