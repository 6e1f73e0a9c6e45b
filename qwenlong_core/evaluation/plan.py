"""What an evaluation sets out to answer, fixed before the first sample.

A log of samples belongs to one plan: another model, other rows, another sampling or another seed
never continue it. The plan also holds every item's id, so a missing one cannot go unnoticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwenlong_core.data.prompts import TEMPLATE_DIGEST
from qwenlong_core.data.rows import dataset_digest
from qwenlong_core.jobs import EvaluateJob
from qwenlong_core.records import Example
from qwenlong_core.settings.base import Block
from qwenlong_core.store.artifacts import folder_digest

PLAN, SAMPLES, SCORES = "plan.json", "samples.jsonl", "scores.json"


class Plan(Block):
    """Identity of an evaluation."""

    model_digest: str
    dataset_digest: str
    """Over the content of the chosen rows."""
    items: tuple[str, ...]
    """Ids of the chosen rows, in the order they are answered."""
    samples: int
    """Completions per item."""
    protocol: dict[str, Any]
    """Everything else that can change a completion or its score."""
    seed: int

    @property
    def expected(self) -> set[tuple[str, int]]:
        """Key of every sample that the evaluation is to hold."""
        return {(item, number) for item in self.items for number in range(self.samples)}


def _rank(example: Example) -> str:
    return hashlib.sha256(example.id.encode()).hexdigest()


def choose_items(examples: Sequence[Example], limit: int | None) -> list[Example]:
    """At most ``limit`` rows of each domain of each source, documents together, shorter documents first.

    Which rows are taken depends on their ids alone, so every model and every seed answers the same
    ones, and a larger limit takes the same rows and more.
    """
    chosen: list[Example] = []
    groups: dict[tuple[str, str], list[Example]] = {}
    for example in examples:
        groups.setdefault((example.source, example.domain), []).append(example)
    for rows in groups.values():
        chosen += sorted(rows, key=_rank)[:limit]
    return sorted(chosen, key=lambda row: (len(row.context), row.document_id, row.context, row.id))


def scoring_protocol(job: EvaluateJob) -> dict[str, Any]:
    """The part of the protocol that scores a completion; the rest is how it was sampled."""
    judge = job.evaluation.judge
    return {
        "judge": judge.model_dump(include={"model", "temperature", "seed"}) if judge else None,
        "number_tolerance": job.number_tolerance,
    }


def make_plan(job: EvaluateJob, examples: list[Example], model: Path) -> Plan:
    """The plan of evaluating ``model`` on the chosen rows.

    Raises:
        ValueError: there are no rows, or two share an id.
    """
    items = tuple(example.id for example in examples)
    if not items:
        raise ValueError("there are no evaluation rows: give data.eval a source whose rows fit the limits")
    if len(set(items)) < len(items):
        repeated = next(item for item in items if items.count(item) > 1)
        raise ValueError(f"evaluation row id {repeated!r} occurs twice: ids must be unique, run prepare again")
    settings = job.evaluation
    apart = {"samples", "limit", "judge", "server", "bootstrap_resamples", "confidence"}
    protocol = settings.model_dump(mode="json", exclude=apart)  # compared with what is read from the file
    server = settings.server.model_dump(include={"model", "endpoint"}) if settings.server else None
    return Plan(
        model_digest=folder_digest(model),
        dataset_digest=dataset_digest(examples),
        items=items,
        samples=settings.samples,
        protocol=protocol
        | scoring_protocol(job)
        | {
            "server": server,
            "dtype": job.model.dtype,
            "prompt": TEMPLATE_DIGEST,
        },
        seed=job.seed,
    )


def adopt_plan(plan: Plan, folder: Path) -> None:
    """Write the plan, or check that the log already in ``folder`` belongs to it.

    Raises:
        ValueError: another evaluation stands there; it names what differs.
    """
    path = folder / PLAN
    if not path.exists():
        if (folder / SAMPLES).exists():
            raise ValueError(f"{folder / SAMPLES} has no {PLAN} beside it: use an empty work folder")
        staging = path.with_suffix(".tmp")
        staging.write_text(plan.model_dump_json(indent=1))
        staging.replace(path)
        return
    found = Plan.model_validate_json(path.read_text())
    differing = [name for name in Plan.model_fields if getattr(found, name) != getattr(plan, name)]
    if differing:
        raise ValueError(f"{folder} holds another evaluation (other {', '.join(differing)}): use an empty work folder")
