"""What every artifact store can do (:class:`Store`), and what the folder and the bucket share."""

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
    """Which artifact a stage made under a fingerprint, and when."""

    stage: PlainName
    fingerprint: PlainName
    ref: ArtifactRef
    profile: str
    """Whose run made it or last used it; empty for none's."""
    settings: dict[str, Any]
    """The stage's job."""
    created_at: str
    mlflow_run_id: str | None = None


class Stored(NamedTuple):
    """One file or object of a store, as a listing shows it."""

    name: str
    """Below the store's root, POSIX."""
    size: int
    modified: datetime
    upload: str | None = None
    """Id of a multipart upload that was started and not completed: there is no object yet."""


class Store(Protocol):
    """Where artifacts live. The protocol is small on purpose: a new backend implements these methods."""

    @property
    def uri(self) -> str:
        """The store's address."""

    def check(self) -> str:
        """Make sure that the store can be written; returns what it is, in words.

        Raises:
            ArtifactError: it cannot be written; the message names the setting to change.
        """

    def publish(self, directory: Path, manifest: Manifest) -> ArtifactRef:
        """Store the files of ``directory`` under ``manifest``.

        Of two writers of the same digest one wins, and the other one's call succeeds as well. A damaged
        artifact with this digest is replaced.

        Raises:
            ArtifactError: a file is a pickle, or has changed since it was described.
            ConnectionError: the store did not answer; it may pass.
        """

    def fetch(self, ref: ArtifactRef) -> Path:
        """A local folder with the artifact's files, every digest checked. Nobody may write into it.

        Raises:
            Damaged: the artifact is missing or damaged.
        """

    def manifest(self, ref: ArtifactRef) -> Manifest | None:
        """The artifact's manifest, or ``None`` if there is none or it does not match the digest."""

    def record(self, entry: StageRecord) -> None:
        """Remember which artifact a fingerprint led to. A newer record replaces an older one."""

    def lookup(self, stage: str, fingerprint: str) -> StageRecord | None:
        """The record of a fingerprint, or ``None`` if there is none or its artifact is gone."""

    def latest(self, stage: str, profile: str) -> StageRecord | None:
        """The newest record of a stage under a profile, of those whose artifact is still there."""

    def damage(self, ref: ArtifactRef) -> list[str]:
        """Names of an artifact's files that are missing or altered. Reads every byte.

        Raises:
            Damaged: the manifest itself is damaged or missing.
        """

    def listing(self) -> list[Stored]:
        """Everything below the store's root in no particular order, including unfinished writes."""

    def remove(self, stored: Stored) -> None:
        """Delete one file, object or unfinished upload, unless it was written again since it was listed.

        Something that is gone already is no error.
        """

    def claim(self, name: str, text: str) -> str:
        """Write ``text`` under ``name`` if nothing is there yet; returns what is there now.

        Atomic for all users of the store: of several writers exactly one gets its own text back, and the others
        get that one's text.

        Raises:
            ArtifactError: the store cannot do it.
        """


def refs_in(listing: Iterable[Stored], base: str) -> list[ArtifactRef]:
    """The artifacts in a store's listing: those that have a manifest.

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
    """Parse a record. One that is damaged or of another version counts as missing, so its stage runs again.

    Args:
        name: the record's file, for the warning.
    """
    try:
        return StageRecord.model_validate_json(text)
    except ValidationError as error:
        reason = error.errors(include_url=False, include_input=False)[0]["msg"]
        logger.warning("%s cannot be read as a record and is ignored: %s", name, reason)
        return None


def newest_whole(store: Store, records: Iterable[StageRecord]) -> StageRecord | None:
    """The newest record whose artifact is still there."""
    newest_first = sorted(records, key=lambda entry: entry.created_at, reverse=True)
    return next((entry for entry in newest_first if store.manifest(entry.ref)), None)


_PICKLED = frozenset({".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".joblib"})


def _is_pickle(path: Path) -> bool:
    """Whether a file is a pickle, by its name or content."""
    # A safetensors file starts with a length, which can look like a pickle's first bytes: its name decides.
    if path.suffix in _PICKLED or path.suffix == ".safetensors":
        return path.suffix in _PICKLED
    with path.open("rb") as stream:
        start = stream.read(2)
    if start == b"PK" and zipfile.is_zipfile(path):  # what torch.save writes
        with zipfile.ZipFile(path) as archive:
            return any(PurePosixPath(name).suffix in _PICKLED for name in archive.namelist())
    # Protocols 2 to 5 start with the opcode PROTO and their number.
    return start in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def refuse_pickles(directory: Path) -> None:
    """Refuse to publish files that run code when they are loaded.

    Raises:
        ArtifactError: the message names the file and what to write instead.
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
        probe.unlink(missing_ok=True)  # another run may have swept it
    except OSError as error:
        raise ArtifactError(
            f"{setting}={str(folder)!r} cannot be written ({error.strerror}): "
            f"make the folder writable, or choose another {setting}"
        ) from error
