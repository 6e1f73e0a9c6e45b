"""Where a model came from, and whether its artifacts are what their manifests say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwenlong_core.artifacts import ArtifactError, ArtifactRef, Store
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


def training_data(store: Store, model: ArtifactRef) -> list[ArtifactRef]:
    """The data artifacts that a model and the models before it were trained on, each once.

    Raises:
        ArtifactError: a manifest on the way is gone, so that nobody can tell.
    """
    found: dict[str, ArtifactRef] = {}
    link: ArtifactRef | None = model
    while link is not None:
        manifest = store.manifest(link)
        if manifest is None:
            raise ArtifactError(f"what {model.short} was trained on cannot be told: {link.kind}/{link.short} is not in the store")
        if data := manifest.parents.get("data"):
            found.setdefault(data, ArtifactRef(kind="data", uri="", sha256=data))
        before = manifest.parents.get("model")
        link = ArtifactRef(kind="model", uri="", sha256=before) if before else None
    return list(found.values())


def find_faults(store: Store, artifacts: Mapping[str, ArtifactRef]) -> list[str]:
    """What is wrong with each of the artifacts, by the name people know it by; empty if all are sound.

    Every byte is read now, whatever was checked before.
    """
    faults = []
    for name, ref in artifacts.items():
        try:
            altered = store.damage(ref)
        except ArtifactError as error:
            faults.append(f"{name} cannot be trusted: {error}")
        else:
            faults += [f"{name} cannot be trusted: {file} of {ref.kind}/{ref.short} is missing or altered" for file in altered]
    return faults
