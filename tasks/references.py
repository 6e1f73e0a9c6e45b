"""REF: how a person names a model or an artifact. It is parsed here and nowhere else.

    models:/qwenlong@champion      an alias of the registry; models:/qwenlong/3 is version 3
    model/0a1b2c3d4e5f             an artifact by its kind and the first digits of its digest
    s3://bucket/artifacts/model/0a1b2c...    the same by its address
    0a1b2c                         the first digits alone, where only an artifact can be meant

Commands that take a model also take a folder, a bundled model and a hub id (:mod:`qwenlong.tasks.models`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from qwenlong_core.data.prepared import EVAL_ROWS
from qwenlong_core.errors import Refused
from qwenlong_core.settings.running import TrackingSettings
from qwenlong_core.store.artifacts import ArtifactRef, Manifest
from qwenlong_core.store.files import MANIFEST
from qwenlong_core.store.protocol import Store, refs_in

if TYPE_CHECKING:  # MLflow takes seconds to load, and most references do not need it
    from qwenlong.tasks.tracking.registry import RegisteredVersion

_REGISTRY = re.compile(r"models:/(?P<name>[^@/]+)(?:@(?P<alias>[^@/]+)|/(?P<version>\d+))")
_ARTIFACT = re.compile(r"(?:(?:(?:[a-z0-9+]+:/)?/.*/)?(?P<kind>[a-z]+)/)?(?P<digest>[0-9a-f]{1,64})/?")


class BadReference(Refused):
    """A reference that names no model or artifact, or more than one."""


class InRegistry(NamedTuple):
    """A version in the model registry, by alias or by number; one of the two is given."""

    name: str
    alias: str | None
    version: str | None


class InStore(NamedTuple):
    """An artifact in the store."""

    kind: str | None
    """``None`` for any."""
    digest: str
    """The first digits, or all 64."""


def parse(given: str) -> InRegistry | InStore | None:
    """What a reference says, or ``None`` if it names neither a registry version nor an artifact.

    Raises:
        BadReference: it starts with ``models:/`` but does not go on as it must.
    """
    if given.startswith("models:/"):
        if match := _REGISTRY.fullmatch(given):
            return InRegistry(**match.groupdict())
        raise BadReference(f"{given!r}: a registry reference is models:/NAME@ALIAS or models:/NAME/VERSION")
    match = _ARTIFACT.fullmatch(given)
    return InStore(**match.groupdict()) if match else None


def find_registered(tracking: TrackingSettings, wanted: InRegistry) -> RegisteredVersion:
    """The registry version that is meant.

    Raises:
        BadReference: there is none.
    """
    from qwenlong.tasks.tracking.registry import by_alias, by_version

    named = tracking.model_copy(update={"registered_model": wanted.name})
    found = by_alias(named, wanted.alias) if wanted.alias else by_version(named, str(wanted.version))
    if found is None:
        given = f"models:/{wanted.name}" + (f"@{wanted.alias}" if wanted.alias else f"/{wanted.version}")
        raise BadReference(
            f"{given}: the registry at tracking.uri={tracking.uri!r} has no such model: {_others(named, wanted.name)}"
        )
    return found


def _others(named: TrackingSettings, name: str) -> str:
    """What to do where a version is not there: name one that is, or make one."""
    from qwenlong.tasks.tracking.registry import CHALLENGER, CHAMPION, by_alias

    there = [f"models:/{name}@{alias}" for alias in (CHAMPION, CHALLENGER) if by_alias(named, alias)]
    return f"there is {' and '.join(there)}" if there else "run the pipeline, or name another"


def find_artifact(refs: Iterable[ArtifactRef], wanted: InStore) -> ArtifactRef:
    """The one artifact whose digest begins like this.

    Raises:
        BadReference: there is none, or more than one.
    """
    found = [ref for ref in refs if ref.sha256.startswith(wanted.digest) and wanted.kind in (None, ref.kind)]
    if len(found) == 1:
        return found[0]
    name = f"{wanted.kind}/{wanted.digest}" if wanted.kind else wanted.digest
    if not found:
        raise BadReference(f"there is no artifact {name} in the store: `qwenlong artifacts ls` lists what there is")
    shown = ", ".join(f"{ref.kind}/{ref.short}" for ref in found[:5])
    raise BadReference(f"{name} fits {len(found)} artifacts: give more of the digest ({shown} ...)")


def artifact_in(store: Store, wanted: InStore) -> ArtifactRef:
    """:func:`find_artifact` among all artifacts of a store."""
    return find_artifact(refs_in(store.listing(), store.uri), wanted)


def resolve_artifact(given: str, refs: Iterable[ArtifactRef], tracking: TrackingSettings) -> ArtifactRef:
    """The artifact that a person means: any form of REF above.

    Raises:
        BadReference: it is no reference, or none or several of ``refs`` fit.
    """
    wanted = parse(given)
    if wanted is None:
        raise BadReference(
            f"{given!r} is no reference: give the first digits of a digest, KIND/DIGEST, an artifact's address, "
            "models:/NAME@ALIAS or models:/NAME/VERSION"
        )
    if isinstance(wanted, InRegistry):
        model = find_registered(tracking, wanted).model
        wanted = InStore(model.kind, model.sha256)
    return find_artifact(refs, wanted)


def evaluation_folder(store: Store, given: str) -> Path:
    """The folder of an evaluation: a path, or an artifact ``evaluation/DIGEST``.

    Raises:
        BadReference: neither, or there is no such artifact.
    """
    if Path(given).is_dir():
        return Path(given)
    wanted = parse(given)
    if isinstance(wanted, InStore) and wanted.kind == "evaluation":
        return store.fetch(artifact_in(store, wanted))
    raise BadReference(f"{given!r} is no folder and no artifact evaluation/DIGEST: name a finished evaluation")


def evaluated_rows(store: Store, folder: Path) -> Path:
    """The folder with the rows that an evaluation answered: its own, or the data artifact for a pipeline's.

    Raises:
        ValueError: there are none.
        BadReference: the data artifact is not in the store any more.
    """
    if (folder / EVAL_ROWS).is_file():
        return folder
    if (folder / MANIFEST).is_file():
        parents = Manifest.model_validate_json((folder / MANIFEST).read_text()).parents
        return store.fetch(artifact_in(store, InStore("data", parents["data"])))
    raise ValueError(f"{folder} holds no {EVAL_ROWS}, the rows it answered: give a folder that `qwenlong eval` wrote")
