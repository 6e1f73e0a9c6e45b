"""Immutable artifacts: a directory of files with a manifest, addressed by the digest of its content.

Invariant: no manifest, no artifact. The manifest is written last, so a reader never meets a
half-written artifact that reads as whole, and readers check every file's digest against it.

    ROOT/artifacts/KIND/DIGEST/...files..., manifest.json     immutable, by content
    ROOT/stages/STAGE/FINGERPRINT.json                        which artifact a stage's inputs gave
    ROOT/claims/NAME                                          texts that only the first writer could set
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field

from qwenlong_core.config import Block

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
NOTES = frozenset({"metrics.jsonl", "job.json"})
"""Files that tell how long a stage took and what it was told; verified, but not part of the digest."""
_CHUNK = 1 << 20


class ArtifactError(RuntimeError):
    """An artifact that is missing, incomplete or damaged."""


class ArtifactRef(Block):
    """The small reference that travels through the pipeline instead of data or weights."""

    kind: str
    uri: str
    sha256: str

    @property
    def short(self) -> str:
        """The first 12 characters of the digest, for people."""
        return self.sha256[:12]


class FileEntry(Block):
    """Digest and size in bytes of one file."""

    sha256: str
    size: int


class Manifest(Block):
    """What an artifact holds and where it came from."""

    kind: str
    schema_version: int = SCHEMA_VERSION
    files: dict[str, FileEntry]
    parents: dict[str, str] = Field(default_factory=dict)
    """Digest of every input artifact, by the name the stage knows it under."""
    settings_digest: str
    code_digest: str
    created_at: str

    @property
    def digest(self) -> str:
        """SHA-256 over kind, files and parents; times, settings and code do not enter, and neither do
        the :data:`NOTES` beside the content, so a stage that is run again and yields the same content
        keeps its digest and re-runs nothing."""
        content = {
            "kind": self.kind,
            "schema_version": self.schema_version,
            "files": {n: entry.sha256 for n, entry in sorted(self.files.items()) if n not in NOTES},
            "parents": dict(sorted(self.parents.items())),
        }
        return digest_json(content)


class StageRecord(Block):
    """One line of provenance: the artifact that a stage's fingerprint gave, and when."""

    stage: str
    fingerprint: str
    ref: ArtifactRef
    profile: str
    settings: dict[str, Any]
    created_at: str
    mlflow_run_id: str | None = None


class Store(Protocol):
    """Where artifacts live. Small on purpose: a new backend implements these seven methods."""

    def publish(self, directory: Path, manifest: Manifest) -> ArtifactRef:
        """Store the files of ``directory`` under ``manifest``; of two writers of one digest one
        wins and the other adopts."""

    def fetch(self, ref: ArtifactRef) -> Path:
        """A local folder with the artifact's files, every digest checked."""

    def manifest(self, ref: ArtifactRef) -> Manifest | None:
        """The artifact's manifest, or ``None`` when it is not whole."""

    def record(self, entry: StageRecord) -> None:
        """Remember which artifact a fingerprint gave; the newest record of a fingerprint counts."""

    def lookup(self, stage: str, fingerprint: str) -> StageRecord | None:
        """The record of a fingerprint whose artifact is really there."""

    def latest(self, stage: str, profile: str) -> StageRecord | None:
        """The newest record of a stage under a profile whose artifact is really there."""

    def claim(self, name: str, text: str) -> str:
        """Write ``text`` under ``name`` if nothing stands there, and return what stands there now.

        Atomic for all users of the store: of several writers exactly one gets its own text back, and
        the others get that one's (S3: a put with ``If-None-Match: *``, and a get where it is refused).
        """


def now() -> str:
    """The current time, UTC, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def digest_json(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def files_below(directory: Path) -> Iterable[Path]:
    """All files of a folder in a fixed order, its manifest excepted."""
    return sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / MANIFEST)


def describe(directory: Path, kind: str, *, parents: dict[str, str], settings_digest: str, code_digest: str) -> Manifest:
    """The manifest of the files in ``directory``."""
    files = {
        path.relative_to(directory).as_posix(): FileEntry(sha256=digest_file(path), size=path.stat().st_size)
        for path in files_below(directory)
    }
    if not files:
        raise ArtifactError(f"{directory} is empty: a stage that wrote nothing cannot be published as {kind!r}")
    return Manifest(
        kind=kind,
        files=files,
        parents=parents,
        settings_digest=settings_digest,
        code_digest=code_digest,
        created_at=now(),
    )


def verify(directory: Path, manifest: Manifest) -> None:
    """Check every file against its manifest.

    Raises:
        ArtifactError: naming the first file that is missing, of the wrong size or damaged.
    """
    for name, entry in manifest.files.items():
        path = directory / name
        if not path.is_file():
            raise ArtifactError(f"{path} is missing from artifact {manifest.digest[:12]}: re-run its stage with --refresh")
        if path.stat().st_size != entry.size or digest_file(path) != entry.sha256:
            raise ArtifactError(
                f"{path} is damaged: its SHA-256 differs from the manifest's {entry.sha256[:12]}; "
                "delete the artifact's folder and re-run its stage"
            )


def check_writable(folder: Path, setting: str) -> None:
    """Fail at once, and clearly, if nothing can be stored in a folder.

    Raises:
        ArtifactError: naming the setting to change.
    """
    probe = folder / f".probe-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise ArtifactError(
            f"{setting}={str(folder)!r} cannot be written ({error.strerror}): "
            f"make the folder writable or choose another with --set {setting}=DIR"
        ) from error


_VERIFIED: set[Path] = set()
"""Artifacts whose digests this process has checked; they are immutable, so once is enough."""


class LocalStore:
    """A folder on this machine; publishing writes to a temporary name, syncs and renames."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def publish(self, directory: Path, manifest: Manifest) -> ArtifactRef:
        """See :class:`Store`. The files are copied; ``directory`` is left as it is."""
        target = self.root / "artifacts" / manifest.kind / manifest.digest
        ref = ArtifactRef(kind=manifest.kind, uri=target.as_uri(), sha256=manifest.digest)
        if not self._sound(ref):
            staging = target.with_name(f".tmp-{uuid.uuid4().hex}")
            try:
                shutil.copytree(directory, staging, ignore=_root_manifest(directory))
                verify(staging, manifest)
                _write_synced(staging / MANIFEST, manifest.model_dump_json(indent=2))
                _sync_tree(staging)
                _rename_or_adopt(staging, target)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        return ref

    def _sound(self, ref: ArtifactRef) -> bool:
        """Whether the artifact is there and undamaged; a damaged one is put aside, to be made again."""
        directory, manifest = self._directory(ref), self.manifest(ref)
        with contextlib.suppress(ArtifactError):
            if manifest is not None:
                verify(directory, manifest)
                return True
        with contextlib.suppress(FileNotFoundError):
            directory.rename(directory.with_name(f".bad-{uuid.uuid4().hex}"))
        return False

    def fetch(self, ref: ArtifactRef) -> Path:
        """See :class:`Store`; each artifact is verified once per process."""
        manifest = self.manifest(ref)
        if manifest is None:
            raise ArtifactError(f"artifact {ref.kind}/{ref.short} is not in {self.root}: re-run the stage that makes it")
        directory = self._directory(ref)
        if directory not in _VERIFIED:
            if manifest.digest != ref.sha256:
                raise ArtifactError(f"{directory / MANIFEST} does not match its digest {ref.short}: delete the folder")
            verify(directory, manifest)
            _VERIFIED.add(directory)
        return directory

    def manifest(self, ref: ArtifactRef) -> Manifest | None:
        """See :class:`Store`."""
        path = self._directory(ref) / MANIFEST
        return Manifest.model_validate_json(path.read_text()) if path.is_file() else None

    def record(self, entry: StageRecord) -> None:
        """See :class:`Store`."""
        path = self._record_path(entry.stage, entry.fingerprint)
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = path.with_name(f".tmp-{uuid.uuid4().hex}")
        _write_synced(staging, entry.model_dump_json(indent=2))
        os.replace(staging, path)

    def lookup(self, stage: str, fingerprint: str) -> StageRecord | None:
        """See :class:`Store`."""
        path = self._record_path(stage, fingerprint)
        return self._whole(StageRecord.model_validate_json(path.read_text())) if path.is_file() else None

    def latest(self, stage: str, profile: str) -> StageRecord | None:
        """See :class:`Store`."""
        paths = (self.root / "stages" / stage).glob("*.json")
        records = [StageRecord.model_validate_json(path.read_text()) for path in paths]
        whole = [entry for entry in records if entry.profile == profile and self._whole(entry)]
        return max(whole, key=lambda entry: entry.created_at, default=None)

    def claim(self, name: str, text: str) -> str:
        """See :class:`Store`; a hard link to the written text, which the file system makes for one alone."""
        path = self.root / "claims" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = path.with_name(f".tmp-{uuid.uuid4().hex}")
        try:
            _write_synced(staging, text)
            with contextlib.suppress(FileExistsError):
                os.link(staging, path)
        finally:
            staging.unlink(missing_ok=True)
        return path.read_text()

    def _directory(self, ref: ArtifactRef) -> Path:
        return self.root / "artifacts" / ref.kind / ref.sha256

    def _record_path(self, stage: str, fingerprint: str) -> Path:
        return self.root / "stages" / stage / f"{fingerprint}.json"

    def _whole(self, entry: StageRecord) -> StageRecord | None:
        return entry if self.manifest(entry.ref) is not None else None


def _root_manifest(directory: Path) -> Any:
    """Ignore rule for copytree: a manifest left in the source folder is not one of its files."""
    return lambda folder, names: [MANIFEST] if Path(folder) == directory and MANIFEST in names else []


def _write_synced(path: Path, text: str) -> None:
    with path.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_tree(directory: Path) -> None:
    for path in (*directory.rglob("*"), directory):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _rename_or_adopt(staging: Path, target: Path) -> None:
    try:
        os.rename(staging, target)
    except OSError:
        # Another writer of the same content was first; its artifact is as good as ours.
        if not (target / MANIFEST).is_file():
            raise
