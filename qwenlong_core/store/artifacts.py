"""Immutable artifacts: a directory of files with a manifest, addressed by the digest of its content.

Invariant: no manifest, no artifact. The manifest is written last, so a reader never meets a
half-written artifact that reads as whole, and readers check every file's digest against it.

    ROOT/artifacts/KIND/DIGEST/...files..., manifest.json     immutable, by content
    ROOT/stages/STAGE/FINGERPRINT.json                        which artifact a stage's inputs gave
    ROOT/claims/NAME                                          texts that only the first writer could set

A store is a folder (:mod:`qwenlong_core.store.local`) or a bucket (``qwenlong.tasks.s3.store``).
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import uuid
import zipfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, NamedTuple, Protocol

from pydantic import AfterValidator, Field, ValidationError

from qwenlong_core.settings.base import Block

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
NOTES = frozenset({"metrics.jsonl", "job.json"})
"""Files that tell how long a stage took and what it was told; verified, but not part of the digest."""
_CHUNK = 1 << 20


class ArtifactError(RuntimeError):
    """An artifact that is missing, incomplete or damaged, or a store that cannot be used."""


class Damaged(ArtifactError):
    """Content that differs from its digest."""


def _inside(name: str) -> str:
    """Refuse the name of a file that would lie outside its artifact's folder, or that two stores read
    differently."""
    parts = name.split("/")
    if not name or not name.isprintable() or "\\" in name or any(part in ("", ".", "..") for part in parts):
        raise ValueError(
            f"{name!r} is no file name of an artifact: it must be relative, with '/' between its parts and "
            "without empty parts, '.', '..', backslashes and control characters"
        )
    if name == MANIFEST:
        raise ValueError(f"{name!r} is the manifest's own name: call the file something else")
    return name


FileName = Annotated[str, AfterValidator(_inside)]
"""Path of a file inside its artifact, POSIX; it cannot leave the artifact's folder."""
_PLAIN = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")
PlainName = Annotated[str, Field(pattern=_PLAIN.pattern)]
"""One part of a path: a kind, a stage, a digest."""


class ArtifactRef(Block):
    """The small reference that travels through the pipeline instead of data or weights."""

    kind: PlainName
    uri: str
    sha256: PlainName

    @property
    def short(self) -> str:
        """The first 12 characters of the digest, for people."""
        return self.sha256[:12]


class FileEntry(Block):
    """Digest and size in bytes of one file."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]+$")]
    """A part of a note's key in a bucket, so it must not lead elsewhere."""
    size: Annotated[int, Field(ge=0)]


class Manifest(Block):
    """What an artifact holds and where it came from."""

    kind: PlainName
    schema_version: int = SCHEMA_VERSION
    files: dict[FileName, FileEntry]
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

    stage: PlainName
    fingerprint: PlainName
    ref: ArtifactRef
    profile: str
    settings: dict[str, Any]
    created_at: str
    mlflow_run_id: str | None = None


class Stored(NamedTuple):
    """One file or object of a store, as a listing shows it."""

    name: str
    """Below the store's root, POSIX."""
    size: int
    modified: datetime
    upload: str | None = None
    """Id of an upload that was begun and not completed; it is no object yet."""


class Store(Protocol):
    """Where artifacts live. Small on purpose: a new backend implements these methods."""

    @property
    def uri(self) -> str:
        """The store's address."""

    def check(self) -> str:
        """Make sure that the store can be written, and say in words what it is.

        Raises:
            ArtifactError: it cannot, with the setting to change.
        """

    def publish(self, directory: Path, manifest: Manifest) -> ArtifactRef:
        """Store the files of ``directory`` under ``manifest``; of two writers of one digest one
        wins and the other adopts."""

    def fetch(self, ref: ArtifactRef) -> Path:
        """A local folder with the artifact's files, every digest checked."""

    def manifest(self, ref: ArtifactRef) -> Manifest | None:
        """The artifact's manifest, or ``None`` when there is none that fits the digest."""

    def record(self, entry: StageRecord) -> None:
        """Remember which artifact a fingerprint gave; the newest record of a fingerprint counts."""

    def lookup(self, stage: str, fingerprint: str) -> StageRecord | None:
        """The record of a fingerprint whose artifact is really there."""

    def latest(self, stage: str, profile: str) -> StageRecord | None:
        """The newest record of a stage under a profile whose artifact is really there."""

    def damage(self, ref: ArtifactRef) -> list[str]:
        """Names of an artifact's files that are missing or altered; every byte is read.

        Raises:
            Damaged: the manifest itself is, or there is none.
        """

    def listing(self) -> list[Stored]:
        """Everything below the store's root, in no order, unfinished writes included."""

    def remove(self, stored: Stored) -> None:
        """Take one file, object or unfinished upload away, unless it was written again since it was listed;
        gone already is as good."""

    def claim(self, name: str, text: str) -> str:
        """Write ``text`` under ``name`` if nothing stands there, and return what stands there now.

        Atomic for all users of the store: of several writers exactly one gets its own text back, and
        the others get that one's (S3: a put with ``If-None-Match: *``, and a get where it is refused).

        Raises:
            ArtifactError: the store cannot do it.
        """


def refs_in(listing: Iterable[Stored], base: str) -> list[ArtifactRef]:
    """The artifacts of a store by its listing: those that have a manifest.

    Args:
        base: the store's address.
    """
    parts = [stored.name.split("/") for stored in listing if stored.upload is None]
    return [
        ArtifactRef(kind=kind, uri=f"{base}/artifacts/{kind}/{digest}", sha256=digest)
        for top, kind, digest, name in (part for part in parts if len(part) == 4)
        if top == "artifacts" and name == MANIFEST and _PLAIN.fullmatch(kind) and _PLAIN.fullmatch(digest)
    ]


def read_record(text: str | bytes, name: str) -> StageRecord | None:
    """Parse a record; one that is damaged or of another version counts as none, so its stage is run again.

    Args:
        name: where it lies, for the warning.
    """
    try:
        return StageRecord.model_validate_json(text)
    except ValidationError as error:
        reason = error.errors(include_url=False, include_input=False)[0]["msg"]
        logger.warning("%s is no record, taken as not there: %s", name, reason)
        return None


def newest_whole(store: Store, records: Iterable[StageRecord]) -> StageRecord | None:
    """The newest record whose artifact is really there."""
    newest_first = sorted(records, key=lambda entry: entry.created_at, reverse=True)
    return next((entry for entry in newest_first if store.manifest(entry.ref)), None)


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


_PICKLED = frozenset({".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".joblib"})


def _is_pickle(path: Path) -> bool:
    """Whether a file is a pickle: by its name, by the first bytes of protocols 2 to 5, or inside a zip
    (``torch.save``). Safetensors may start with the same two bytes, so those are told by name."""
    if path.suffix in _PICKLED or path.suffix == ".safetensors":
        return path.suffix in _PICKLED
    with path.open("rb") as stream:
        start = stream.read(2)
    if start == b"PK" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(PurePosixPath(name).suffix in _PICKLED for name in archive.namelist())
    return start in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def refuse_pickles(directory: Path) -> None:
    """Refuse to publish what runs code when it is read.

    Raises:
        ArtifactError: naming the file and what to write instead.
    """
    for path in files_below(directory):
        if _is_pickle(path):
            raise ArtifactError(
                f"{path.relative_to(directory)} is a pickle, which runs code when it is loaded, and is not published: "
                "write tensors as .safetensors, tables as .parquet and everything else as .json"
            )


def files_below(directory: Path) -> Iterable[Path]:
    """All files of a folder in a fixed order, its manifest excepted."""
    return sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / MANIFEST)


def describe(
    directory: Path, kind: str, *, parents: dict[str, str], settings_digest: str, code_digest: str
) -> Manifest:
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


def is_whole(path: Path, entry: FileEntry) -> bool:
    """Whether a file is there with the size and content of its entry."""
    return path.is_file() and path.stat().st_size == entry.size and digest_file(path) == entry.sha256


def verify(directory: Path, manifest: Manifest) -> None:
    """Check every file against its manifest.

    Raises:
        Damaged: naming the first file that is missing, of the wrong size or altered.
    """
    for name, entry in manifest.files.items():
        path = directory / name
        if not path.is_file():
            raise Damaged(f"{path} is missing from artifact {manifest.digest[:12]}: re-run its stage with --refresh")
        if not is_whole(path, entry):
            raise Damaged(
                f"{path} is damaged: its SHA-256 differs from the manifest's {entry.sha256[:12]}; "
                "delete the artifact's folder and re-run its stage"
            )


def check_writable(folder: Path, setting: str, otherwise: str = "") -> None:
    """Fail at once, and clearly, if nothing can be stored in a folder.

    Args:
        otherwise: what to give in its place; an override of ``setting`` if left out.

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
            f"make the folder writable or choose another with {otherwise or f'--set {setting}=DIR'}"
        ) from error
