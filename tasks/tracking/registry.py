"""The MLflow model registry: versions that point at artifacts, and the aliases on them.

``champion`` is the model that should be served, ``challenger`` the newest registered candidate, and ``previous`` the
champion before the last promotion. :mod:`qwenlong.tasks.tracking.champion` moves ``champion`` and ``previous``. A
version holds no second copy of the weights: its tags carry the references of the model and of its evaluation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import LoggedModel
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_DOES_NOT_EXIST,
    ErrorCode,
)
from mlflow.tracking import MlflowClient
from requests.exceptions import RequestException

from qwenlong.tasks.tracking.client import client_for, run_page
from qwenlong_core.jobs import REGISTRATION
from qwenlong_core.settings.base import Block
from qwenlong_core.settings.running import TrackingSettings
from qwenlong_core.store.artifacts import ArtifactRef, Manifest

CHAMPION = "champion"
CHALLENGER = "challenger"
PREVIOUS = "previous"

_MODEL_TAG = "artifact.model"
_EVALUATION_TAG = "artifact.evaluation"
_DIGEST_TAG = "artifact.sha256"


class RegisteredVersion(Block):
    """One registry version and the artifacts it stands for."""

    name: str
    version: str
    model: ArtifactRef
    evaluation: ArtifactRef


def _is_not_found(error: MlflowException) -> bool:
    """Whether the registry answered that there is no such thing.

    A registry that did not answer at all must never be taken for an empty one.
    """
    if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
        return True
    # A missing alias is reported as a bad parameter.
    return error.error_code == ErrorCode.Name(INVALID_PARAMETER_VALUE) and "not found" in str(error)


def _from_tags(name: str, version: str, tags: Mapping[str, str]) -> RegisteredVersion:
    return RegisteredVersion(
        name=name,
        version=version,
        model=ArtifactRef.model_validate_json(tags[_MODEL_TAG]),
        evaluation=ArtifactRef.model_validate_json(tags[_EVALUATION_TAG]),
    )


def by_alias(settings: TrackingSettings, alias: str) -> RegisteredVersion | None:
    """The version an alias points at, or ``None``."""
    try:
        found = client_for(settings).get_model_version_by_alias(settings.registered_model, alias)
    except MlflowException as error:
        if _is_not_found(error):
            return None
        raise
    return _from_tags(found.name, str(found.version), found.tags)


def by_version(settings: TrackingSettings, version: str) -> RegisteredVersion | None:
    """A version by its number, or ``None``."""
    try:
        found = client_for(settings).get_model_version(settings.registered_model, version)
    except MlflowException as error:
        if _is_not_found(error):
            return None
        raise
    return _from_tags(found.name, str(found.version), found.tags)


def versions_of(settings: TrackingSettings, model: ArtifactRef) -> list[ModelVersion]:
    """All versions that stand for a model, the newest first."""
    versions = client_for(settings).search_model_versions(f"name = '{settings.registered_model}'")
    return [v for v in sorted(versions, key=lambda v: -int(v.version)) if v.tags.get(_DIGEST_TAG) == model.sha256]


def find_version(settings: TrackingSettings, model: ArtifactRef, evaluation: ArtifactRef) -> RegisteredVersion | None:
    """The newest version that stands for exactly these artifacts, or ``None``."""
    for found in versions_of(settings, model):
        version = _from_tags(found.name, str(found.version), found.tags)
        if version.evaluation.sha256 == evaluation.sha256:
            return version
    return None


def _ensure_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name, description="Long-context reasoning policies trained by qwenlong.")
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise


def _address(settings: TrackingSettings, model: ArtifactRef) -> str:
    """The address that the version gets in MLflow; its tags carry the full reference in any case."""
    # A tracking server refuses the address of a folder, which may be on another machine.
    if settings.uri.startswith("http") and model.uri.startswith("file:"):
        return f"qwenlong-artifact://{model.kind}/{model.sha256}"
    return model.uri


def register(
    settings: TrackingSettings, inputs: Mapping[str, ArtifactRef], manifest: Manifest | None, output: Path
) -> RegisteredVersion:
    """Make a registry version of ``inputs["model"]``, or take the one that is there, and alias it ``challenger``.

    Writes ``registration.json`` to ``output``.

    Raises:
        ConnectionError: MLflow did not take it. Unlike runs, a registration never waits in the outbox: a model that is
            not in the registry is not registered.
    """
    try:
        version = _registered(settings, inputs["model"], inputs["evaluation"], manifest)
    except (MlflowException, RequestException) as error:
        raise ConnectionError(
            f"the registry at tracking.uri={settings.uri!r} did not take the model, so nothing was registered: {error};"
            " run the same command again once MLflow answers"
        ) from error
    (output / REGISTRATION).write_text(version.model_dump_json(indent=2))
    return version


def _registered(
    settings: TrackingSettings, model: ArtifactRef, evaluation: ArtifactRef, manifest: Manifest | None
) -> RegisteredVersion:
    client = client_for(settings)
    _ensure_model(client, settings.registered_model)
    version = find_version(settings, model, evaluation)
    if version is None:
        tags = {
            _MODEL_TAG: model.model_dump_json(),
            _EVALUATION_TAG: evaluation.model_dump_json(),
            _DIGEST_TAG: model.sha256,
        }
        logged = _logged_model(settings, client, model)
        made = client.create_model_version(
            settings.registered_model,
            source=_address(settings, model),
            run_id=logged.source_run_id if logged else None,
            model_id=logged.model_id if logged else None,
            tags=tags,
            description=_description(settings, model, evaluation, manifest, logged),
        )
        version = _from_tags(made.name, str(made.version), tags)
    client.set_registered_model_alias(version.name, CHALLENGER, version.version)
    return version


def _logged_model(settings: TrackingSettings, client: MlflowClient, model: ArtifactRef) -> LoggedModel | None:
    """The newest logged model that points at the artifact; it links the version to the run that trained it."""
    experiment = client.get_experiment_by_name(settings.experiment)
    if experiment is None:
        return None
    found = client.search_logged_models([experiment.experiment_id], f"tags.`{_DIGEST_TAG}` = '{model.sha256}'")
    return found[0] if found else None


def _description(
    settings: TrackingSettings,
    model: ArtifactRef,
    evaluation: ArtifactRef,
    manifest: Manifest | None,
    logged: LoggedModel | None,
) -> str:
    """Where a version comes from, for its page in MLflow."""
    # Without addresses, which are in the tags: one wider than the page would push the rest out of sight.
    rows = [
        ("model", f"`{model.kind}/{model.short}`"),
        ("SHA-256", f"`{model.sha256}`"),
        ("evaluation", f"`{evaluation.kind}/{evaluation.short}`"),
    ]
    if logged is not None:
        rows.append(
            ("trained by", f"[{logged.name}]({run_page(settings, logged.experiment_id, logged.source_run_id)})")
        )
    if manifest is not None:
        rows += [(f"parent {name}", f"`{digest}`") for name, digest in manifest.parents.items()]
        rows += [("settings digest", f"`{manifest.settings_digest}`"), ("code digest", f"`{manifest.code_digest}`")]
    rows.append(("whole lineage", f"`qwenlong artifacts show {model.short}`"))
    title = f"Policy {model.short}" + (f", trained by stage {logged.name}" if logged else "")
    return f"{title}\n\n" + "".join(f"- {name}: {value}\n" for name, value in rows)  # MLflow draws no tables


def read_registration(folder: Path) -> RegisteredVersion:
    """The version that a register stage made."""
    return RegisteredVersion.model_validate_json((folder / REGISTRATION).read_text())


def still_registered(settings: TrackingSettings, version: RegisteredVersion) -> bool:
    """Whether the registry still has the version: it may have been wiped since the stage was cached."""
    found = find_version(settings, version.model, version.evaluation)
    return found is not None and found.version == version.version


def baseline_for(settings: TrackingSettings, challenger: RegisteredVersion) -> RegisteredVersion | None:
    """The version that the challenger must beat, or ``None`` if there is none yet.

    It is the champion. If the challenger has been promoted already, it is the champion before, so that a repeated
    comparison gives the same answer.
    """
    champion = by_alias(settings, CHAMPION)
    if champion is not None and champion.version == challenger.version:
        return by_alias(settings, PREVIOUS)
    return champion


def needed_artifacts(settings: TrackingSettings) -> set[str]:
    """Digests of all artifacts that MLflow points at: those of every registry version, whatever its model, and the
    inputs of every open run.

    Raises:
        ValueError: there is no such database. It must never be taken for an empty registry.
    """
    path = Path(settings.uri.removeprefix("sqlite:///"))
    if settings.uri.startswith("sqlite:///") and not path.is_file():
        raise ValueError(
            f"tracking.uri={settings.uri!r}: there is no such database, so it is unknown which artifacts the registry "
            "needs; run this where the pipeline ran, or set tracking.uri"
        )
    client = client_for(settings)
    tags = [version.tags for version in _all_pages(client.search_model_versions)]
    texts = [each[name] for each in tags for name in (_MODEL_TAG, _EVALUATION_TAG) if name in each]
    experiments = [experiment.experiment_id for experiment in _all_pages(client.search_experiments)]
    running = _all_pages(functools.partial(client.search_runs, experiments, "attributes.status = 'RUNNING'"))
    inputs = [value for run in running for name, value in run.data.tags.items() if name.startswith("input.")]
    return {ArtifactRef.model_validate_json(text).sha256 for text in texts} | {
        value.rpartition("sha256:")[2] for value in inputs
    }


def _all_pages(search: Callable[..., Any]) -> Iterator[Any]:
    token = None
    while True:
        page = search(page_token=token)
        yield from page
        token = page.token
        if not token:
            return
