"""A finished evaluation on disk: scores computed from its log, and a reader that checks both."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from qwenlong_core.evaluation.plan import PLAN, SAMPLES, SCORES, Plan
from qwenlong_core.evaluation.samples import Sample, read_samples
from qwenlong_core.evaluation.scores import Bootstrap, Scores, compute_scores
from qwenlong_core.store.files import digest_file


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """A finished evaluation: its plan, its samples and the scores computed from them."""

    plan: Plan
    samples: tuple[Sample, ...]
    scores: Scores
    bootstrap: Bootstrap
    """How the scores' intervals were drawn."""


def write_scores(output: Path, bootstrap: Bootstrap) -> None:
    """Compute ``scores.json`` from the plan and the log in ``output``, without a model and without the data.

    Raises:
        ValueError: the log does not hold exactly the planned samples.
    """
    plan = Plan.model_validate_json((output / PLAN).read_text())
    samples = read_samples(output / SAMPLES)
    if differing := plan.expected ^ {sample.key for sample in samples}:
        raise ValueError(
            f"{output / SAMPLES}: {len(differing)} samples are missing or unknown, such as {min(differing)}"
        )
    content = {
        "model_digest": plan.model_digest,
        "dataset_digest": plan.dataset_digest,
        "samples_sha256": digest_file(output / SAMPLES),
        "bootstrap": bootstrap.model_dump(),
        "seconds": sum(sample.seconds for sample in samples),
        "scores": compute_scores(samples, bootstrap).model_dump(),
    }
    # Renamed when whole: ``scores.json`` is the sign that an evaluation is finished.
    staging = output / f"{SCORES}.tmp"
    staging.write_text(json.dumps(content, indent=1))
    staging.replace(output / SCORES)


def read_evaluation(folder: Path) -> Evaluation:
    """Read a finished evaluation, and check that its log is the one its scores were computed from.

    Raises:
        ValueError: a file is missing, unreadable or damaged; the message names it.
    """
    for name in (PLAN, SAMPLES, SCORES):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} has no {name}: the evaluation is not finished, run it again")
    content = json.loads((folder / SCORES).read_text())
    # Everything below trusts the scores, so they must belong to this log, to the byte.
    if content.get("samples_sha256") != digest_file(folder / SAMPLES):
        raise ValueError(f"{folder / SAMPLES} is damaged: it is not the log its scores were computed from")
    return Evaluation(
        plan=Plan.model_validate_json((folder / PLAN).read_text()),
        samples=tuple(read_samples(folder / SAMPLES)),
        scores=Scores.model_validate(content["scores"]),
        bootstrap=Bootstrap.model_validate(content["bootstrap"]),
    )
