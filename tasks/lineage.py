"""Where a model came from: its artifact's parents, back to the base model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qwenlong_core.artifacts import ArtifactRef, Store
from qwenlong_core.model_card import Step, stage_name


def lineage(store: Store, model: ArtifactRef) -> tuple[list[Step], ArtifactRef | None]:
    """The steps from the base model to this one, and the data that the last of them trained on.

    Raises:
        ArtifactError: an ancestor is not in the store any more, or is damaged.
    """
    steps: list[Step] = []
    data: ArtifactRef | None = None
    at: ArtifactRef | None = model
    while at is not None:
        folder, manifest = store.fetch(at), store.manifest(at)
        assert manifest is not None  # fetched just now
        job = _job(folder)
        steps.insert(0, Step(name=stage_name(job), digest=at.sha256, settings=job, made=manifest.created_at))
        if data is None and "data" in manifest.parents:
            data = ArtifactRef(kind="data", uri="", sha256=manifest.parents["data"])
        parent = manifest.parents.get("model")
        at = ArtifactRef(kind="model", uri="", sha256=parent) if parent else None
    return steps, data


def _job(folder: Path) -> dict[str, Any]:
    path = folder / "job.json"
    job: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return job
