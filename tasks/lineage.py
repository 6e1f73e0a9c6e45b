"""Where a model came from, and whether its artifacts are still what their manifests say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qwenlong_core.report.model_card import Step, stage_name
from qwenlong_core.report.summary import registered_version
from qwenlong_core.store.artifacts import ArtifactError, ArtifactRef, Manifest
from qwenlong_core.store.contents import Contents
from qwenlong_core.store.files import JOB
from qwenlong_core.store.protocol import Store


def _ancestry(store: Store, model: ArtifactRef) -> Iterator[tuple[ArtifactRef, Manifest]]:
    """A model and the models it was trained from, the newest first, with their manifests.

    Raises:
        ArtifactError: one of them is not in the store any more.
    """
    link: ArtifactRef | None = model
    while link is not None:
        manifest = store.manifest(link)
        if manifest is None:
            raise ArtifactError(
                f"the origin of model {model.short} is unknown: {link.kind}/{link.short} is not in the store any more"
            )
        yield link, manifest
        before = manifest.parents.get("model")
        link = ArtifactRef(kind="model", uri="", sha256=before) if before else None


def _data(sha256: str) -> ArtifactRef:
    return ArtifactRef(kind="data", uri="", sha256=sha256)


def lineage(store: Store, model: ArtifactRef) -> tuple[list[Step], ArtifactRef | None]:
    """The steps from the base model to this one, and the data that the last of them trained on.

    Raises:
        ArtifactError: an ancestor is not in the store any more, or is damaged.
    """
    steps: list[Step] = []
    for link, manifest in _ancestry(store, model):
        job = _job(store.fetch(link))
        steps.insert(0, Step(name=stage_name(job), digest=link.sha256, settings=job, made=manifest.created_at))
    return steps, next(_data_of_steps(store, model), None)


def _job(folder: Path) -> dict[str, Any]:
    path = folder / JOB
    job: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return job


def _data_of_steps(store: Store, model: ArtifactRef) -> Iterator[ArtifactRef]:
    """The data that the model and each model before it were trained on, the newest first."""
    digests = (manifest.parents.get("data") for _, manifest in _ancestry(store, model))
    return (_data(digest) for digest in digests if digest)


def training_data(store: Store, model: ArtifactRef) -> list[ArtifactRef]:
    """The prepared data that a model and the models before it were trained on: each artifact once, the newest first.

    Distilled rows are rows of the prepared data with the solutions of a teacher, so that data stands for them.

    Raises:
        ArtifactError: a manifest on the way is gone, so the data is unknown.
    """
    digests = (_prepared(store, data) for data in _data_of_steps(store, model))
    return [_data(digest) for digest in dict.fromkeys(digests)]


def _prepared(store: Store, data: ArtifactRef) -> str:
    manifest = store.manifest(data)
    return manifest.parents.get("data", data.sha256) if manifest else data.sha256


def find_faults(store: Store, artifacts: Mapping[str, ArtifactRef]) -> list[str]:
    """What is wrong with these artifacts, in words; empty if all are whole.

    Every byte is read, also of artifacts that were verified before.

    Args:
        artifacts: by the name to call them in the message.
    """
    faults = []
    for name, ref in artifacts.items():
        try:
            altered = store.damage(ref)
        except ArtifactError as error:
            faults.append(f"{name} cannot be trusted: {error}")
        else:
            faults += [
                f"{name} cannot be trusted: {file} of {ref.kind}/{ref.short} is missing or altered" for file in altered
            ]
    return faults


def ancestor_tree(digest: str, contents: Contents, name: str = "") -> dict[str, Any]:
    """An artifact with its settings, code and MLflow run, and below it all its parents likewise.

    Args:
        name: what the artifact is to the one above it, such as ``model`` or ``data``.
    """
    manifest = contents.manifests.get(digest)
    if manifest is None:
        return {"input": name, "sha256": digest, "missing": True}
    record = next(iter(contents.records_of(digest)), None)
    parents = [ancestor_tree(parent, contents, name) for name, parent in manifest.parents.items()]
    return {
        "input": name,
        "kind": manifest.kind,
        "sha256": digest,
        "created_at": manifest.created_at,
        "settings_digest": manifest.settings_digest,
        "code_digest": manifest.code_digest,
        "stage": record and record.stage,
        "profile": record and record.profile,
        "mlflow_run_id": record and record.mlflow_run_id,
        "settings": record and record.settings,
        "parents": parents,
    }


def tree_below_version(store: Store, digest: str, contents: Contents) -> dict[str, Any]:
    """:func:`ancestor_tree`, for a registered model with its newest version on top."""
    made = contents.manifests
    registrations = [
        ref
        for ref in contents.refs
        if ref.kind == "registration" and ref.sha256 in made and made[ref.sha256].parents.get("model") == digest
    ]
    if not registrations:
        return ancestor_tree(digest, contents)
    newest = max(registrations, key=lambda ref: made[ref.sha256].created_at)
    return ancestor_tree(newest.sha256, contents) | {"stage": registered_version(store.fetch(newest))}
