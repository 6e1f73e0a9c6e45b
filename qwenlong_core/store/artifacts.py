"""Immutable artifacts: folders of files with a manifest, addressed by the digest of their content.

Without a manifest there is no artifact. The manifest is written last, so a reader never takes a
half-written artifact for a whole one, and every reader checks every file's digest against it.

    ROOT/artifacts/KIND/DIGEST/...files..., manifest.json     immutable, addressed by content
    ROOT/stages/STAGE/FINGERPRINT.json                        the artifact that a stage made of these inputs
    ROOT/claims/NAME                                          texts that only the first writer could set

What a store can do is in :mod:`qwenlong_core.store.protocol`. A store is a folder
(:mod:`qwenlong_core.store.local`) or a bucket (``qwenlong.tasks.s3.store``).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from pydantic import Field, ValidationError

from qwenlong_core.errors import QwenlongError
from qwenlong_core.settings.base import Block
from qwenlong_core.store.files import (
    JOB,
    MANIFEST,
    METRICS,
    FileEntry,
    Files,
    differences,
    digest_json,
    files_below,
    list_files,
)

SCHEMA_VERSION = 1
NOTES = frozenset({METRICS, JOB})
"""Files that tell how long a stage took and what it was told: verified, but not part of the digest."""
PLAIN_NAME = r"^[A-Za-z0-9_][A-Za-z0-9._-]*$"
PlainName = Annotated[str, Field(pattern=PLAIN_NAME)]
"""One part of a path: a kind, a stage, a digest."""


class ArtifactError(QwenlongError, RuntimeError):
    """An artifact that is missing, incomplete or damaged, or a store that cannot be used."""


class Damaged(ArtifactError):
    """Content that differs from its digest."""


class DiskFull(ArtifactError):
    """No room for what is to be stored. Space may be freed, so the stage can be tried again."""


class ArtifactRef(Block):
    """The small reference that travels through the pipeline instead of data or weights."""

    kind: PlainName
    uri: str
    sha256: PlainName

    @property
    def short(self) -> str:
        """The first 12 characters of the digest, for people."""
        return self.sha256[:12]


class Manifest(Block):
    """What an artifact holds and where it came from."""

    kind: PlainName
    schema_version: int = SCHEMA_VERSION
    files: Files
    parents: dict[str, str] = Field(default_factory=dict)
    """Digest of every input artifact, by the name the stage knows it under."""
    settings_digest: str
    code_digest: str
    created_at: str

    @property
    def digest(self) -> str:
        """SHA-256 over kind, files and parents.

        Times, settings and code are left out, and so are the :data:`NOTES`. A stage that runs again and
        makes the same content therefore keeps its digest, and nothing after it has to run again.
        """
        content = {
            "kind": self.kind,
            "schema_version": self.schema_version,
            "files": {n: entry.sha256 for n, entry in sorted(self.files.items()) if n not in NOTES},
            "parents": dict(sorted(self.parents.items())),
        }
        return digest_json(content)


def now() -> str:
    """The current time, UTC, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def describe(
    folder: Path,
    kind: str,
    *,
    parents: dict[str, str],
    settings_digest: str,
    code_digest: str,
    known: Mapping[str, FileEntry] = MappingProxyType({}),
) -> Manifest:
    """The manifest of the files in a folder. Files that ``known`` has are not read again.

    Raises:
        ArtifactError: the folder is empty.
    """
    rest = [path for path in files_below(folder) if path.relative_to(folder).as_posix() not in known]
    files = {**known, **list_files(folder, rest)}
    if not files:
        raise ArtifactError(f"{folder} is empty: a stage that wrote nothing cannot be published as {kind!r}")
    return Manifest(
        kind=kind,
        files=files,
        parents=parents,
        settings_digest=settings_digest,
        code_digest=code_digest,
        created_at=now(),
    )


def read_manifest(text: str | bytes, ref: ArtifactRef) -> Manifest:
    """Parse a manifest and hold it against the digest it stands under.

    Raises:
        Damaged: it is no manifest, names a file outside its artifact, or has another digest.
    """
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        reason = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise Damaged(f"the manifest of artifact {ref.kind}/{ref.short} cannot be read: {reason}") from error
    if (manifest.kind, manifest.digest) != (ref.kind, ref.sha256):
        raise Damaged(f"the manifest of artifact {ref.kind}/{ref.short} does not match its digest")
    return manifest


def verify(folder: Path, manifest: Manifest) -> None:
    """Check every file against its manifest.

    Raises:
        Damaged: naming the first file that is missing or altered.
    """
    for name, what in differences(folder, manifest.files):
        raise Damaged(
            f"{folder / name} {what} (artifact {manifest.kind}/{manifest.digest[:12]}): delete the artifact's folder "
            "and run its stage again"
        )


def folder_digest(folder: Path) -> str:
    """Digest of an artifact's content: that of its manifest, or of the files where there is no manifest."""
    path = folder / MANIFEST
    if path.is_file():
        return Manifest.model_validate_json(path.read_text()).digest
    return describe(folder, "folder", parents={}, settings_digest="", code_digest="").digest
