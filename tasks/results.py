"""A stage's result: published as an artifact, and remembered under the stage's fingerprint for the next run.

Used by :func:`qwenlong.tasks.stage.execute_stage`, and where a base model is imported outside of a pipeline run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from qwenlong.tasks.specs import StageSpec
from qwenlong_core.store.artifacts import ArtifactRef, describe, now
from qwenlong_core.store.files import JOB, digest_json
from qwenlong_core.store.protocol import StageRecord, Store


def write_job(spec: StageSpec, output: Path) -> Path:
    """Write the stage's job into its output folder, which is made if needed; returns the file."""
    output.mkdir(parents=True, exist_ok=True)
    (output / JOB).write_text(json.dumps(spec.job, indent=2))
    return output / JOB


def digests_of(inputs: Mapping[str, ArtifactRef]) -> dict[str, str]:
    """Digest of every input, by the name the stage knows it under."""
    return {name: ref.sha256 for name, ref in inputs.items()}


def publish(store: Store, spec: StageSpec, inputs: Mapping[str, ArtifactRef], output: Path) -> ArtifactRef:
    """Publish a stage's finished output folder.

    Raises:
        ArtifactError: the folder is empty, holds a pickle, or the store cannot take it.
    """
    manifest = describe(
        output,
        spec.kind,
        parents=digests_of(inputs),
        settings_digest=digest_json(spec.job),
        code_digest=spec.code,
    )
    return store.publish(output, manifest)


def remember(
    store: Store, spec: StageSpec, fingerprint: str, ref: ArtifactRef, *, profile: str, mlflow_run_id: str | None = None
) -> None:
    """Record the artifact under the stage's fingerprint, so that the next run with the same one finds it.

    Args:
        profile: whose result it is, for ``--from``; empty for none's.
    """
    for stage in dict.fromkeys((spec.cached_as, spec.name)):
        # Under `cached_as` it answers the cache, under its name it is what a later run can start on.
        store.record(
            StageRecord(
                stage=stage,
                fingerprint=fingerprint,
                ref=ref,
                profile=profile,
                settings=spec.job,
                created_at=now(),
                mlflow_run_id=mlflow_run_id,
            )
        )
