"""What an evaluation will ask, fixed before the first answer.

A log of samples belongs to one plan. A run with another model, other rows, other sampling or another seed never
continues it. The plan lists the id of every item, so a missing answer is noticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qwenlong_core.data.prompts import wording_digest
from qwenlong_core.data.rows import dataset_digest
from qwenlong_core.data.ruler.tasks import is_ruler_source
from qwenlong_core.jobs import EvaluateJob
from qwenlong_core.records import Example
from qwenlong_core.settings.base import Block
from qwenlong_core.settings.evaluation import EvaluationSettings
from qwenlong_core.store.artifacts import folder_digest

_JUDGE = {"model", "temperature", "seed", "reasoning_model", "reasoning_effort"}
"""The settings of a judge on which its verdicts depend."""
SCORED_AS = "scored_as"
"""The published scoring that stands beside ours, where one does."""
PLAN, SAMPLES, SCORES = "plan.json", "samples.jsonl", "scores.json"


class Plan(Block):
    """What identifies an evaluation."""

    model_digest: str
    dataset_digest: str
    """Digest of the content of the chosen rows."""
    items: tuple[str, ...]
    """Ids of the chosen rows, in the order they are answered."""
    samples: int
    """Completions per item."""
    protocol: dict[str, Any]
    """Everything else that can change a completion or its score."""
    seed: int

    @property
    def expected(self) -> set[tuple[str, int]]:
        """Keys ``(item id, number)`` of all samples that a finished evaluation holds."""
        return {(item, number) for item in self.items for number in range(self.samples)}


def _rank(example: Example) -> str:
    return hashlib.sha256(example.id.encode()).hexdigest()


def choose_items(examples: Sequence[Example], limit: int | None) -> list[Example]:
    """At most ``limit`` rows per source and domain, and of RULER per task.

    The rows of a document come together, shorter documents first. The choice depends on the ids alone: every model
    and every seed answers the same rows, and a larger limit adds rows to those of a smaller one.
    """
    chosen: list[Example] = []
    groups: dict[tuple[str, ...], list[Example]] = {}
    for example in examples:
        tasks = example.metadata.get("parts", ()) if is_ruler_source(example.source) else ()
        groups.setdefault((example.source, example.domain, *tasks), []).append(example)
    for rows in groups.values():
        chosen += sorted(rows, key=_rank)[:limit]
    # Rows of similar length share a batch. Equal contexts stay side by side even without document ids, so that an
    # engine processes them once.
    return sorted(chosen, key=lambda row: (len(row.context), row.document_id, row.context, row.id))


def scoring_protocol(settings: EvaluationSettings, number_tolerance: float) -> dict[str, Any]:
    """The part of the protocol that decides how a completion is scored; the rest decides how it is sampled."""
    return {
        "judge": settings.judge.model_dump(include=_JUDGE) if settings.judge else None,
        "number_tolerance": number_tolerance,
        **({} if settings.protocol == "strict" else {SCORED_AS: settings.protocol}),
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
    # Left out: what the plan holds in other fields, and what only the intervals depend on.
    excluded = {"samples", "limit", "judge", "protocol", "server", "bootstrap_resamples", "confidence"}
    if settings.reader == "whole":
        excluded |= {"reader", "chunk", "memory_tokens"}
    # As JSON, since it is compared with a plan that was read from a file.
    protocol = settings.model_dump(mode="json", exclude=excluded)
    server = settings.server.model_dump(include={"model", "endpoint"}) if settings.server else None
    return Plan(
        model_digest=folder_digest(model),
        dataset_digest=dataset_digest(examples),
        items=items,
        samples=settings.samples,
        protocol=protocol
        | scoring_protocol(settings, job.number_tolerance)
        | {
            "server": server,
            "dtype": job.model.dtype,
            "prompt": wording_digest(example.answer_type for example in examples),
        },
        seed=job.seed,
    )


def adopt_plan(plan: Plan, folder: Path) -> None:
    """Write the plan, or check that the log already in ``folder`` belongs to it.

    Raises:
        ValueError: the folder holds another evaluation; the message names what differs.
    """
    path = folder / PLAN
    if not path.exists():
        if (folder / SAMPLES).exists():
            raise ValueError(f"{folder / SAMPLES} has no {PLAN} beside it: use an empty work folder")
        # Renamed when whole: a kill while writing must not leave half a plan that no later run can read.
        staging = path.with_suffix(".tmp")
        staging.write_text(plan.model_dump_json(indent=1))
        staging.replace(path)
        return
    found = Plan.model_validate_json(path.read_text())
    differing = [name for name in Plan.model_fields if getattr(found, name) != getattr(plan, name)]
    if differing:
        raise ValueError(f"{folder} holds another evaluation (other {', '.join(differing)}): use an empty work folder")
