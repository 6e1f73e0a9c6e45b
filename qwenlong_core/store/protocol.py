"""What every artifact store can do, and what the two stores share."""

from __future__ import annotations

import logging
import re
import uuid
import zipfile
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

from pydantic import ValidationError

from qwenlong_core.settings.base import Block
from qwenlong_core.store.artifacts import PLAIN_NAME, ArtifactError, ArtifactRef, Manifest, PlainName
from qwenlong_core.store.files import MANIFEST, files_below

logger = logging.getLogger(__name__)


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
        if top == "artifacts" and name == MANIFEST and re.match(PLAIN_NAME, kind) and re.match(PLAIN_NAME, digest)
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


def check_writable(folder: Path, setting: str) -> None:
    """Fail at once, and clearly, if nothing can be stored in a folder.

    Args:
        setting: what named the folder, for the message.

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
            f"make the folder writable, or choose another {setting}"
        ) from error
