"""The artifact store in a local folder, which is also the read cache in front of a bucket."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qwenlong_core.store.artifacts import ArtifactRef, Damaged, DiskFull, Manifest, read_manifest, verify
from qwenlong_core.store.files import MANIFEST, differences, write_synced
from qwenlong_core.store.protocol import StageRecord, Stored, check_writable, newest_whole, read_record, refuse_pickles
from qwenlong_core.store.staging import staging, sweep

logger = logging.getLogger(__name__)

_VERIFIED: set[Path] = set()
"""Artifacts whose digests this process has checked. Artifacts are immutable, so once is enough."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def full_disk_named(root: Path, needed: int) -> Iterator[None]:
    """Turn "no space left" into a message that names the store and what it lacks.

    Raises:
        DiskFull: there is no room for ``needed`` bytes.
    """
    free = shutil.disk_usage(root).free
    try:
        yield
    except OSError as error:
        # copytree collects what went wrong: (source, target, message) for every file.
        texts = [str(part[2]) for part in error.args[0]] if isinstance(error, shutil.Error) else []
        if error.errno not in _FULL and not any(f"[Errno {number}]" in text for number in _FULL for text in texts):
            raise
        raise DiskFull(
            f"the disk of {str(root)!r} is full: {needed / 1e9:.3f} GB are to be stored and "
            f"{free / 1e9:.3f} were free: free space and run the same command again"
        ) from error


class LocalStore:
    """A folder on this machine. An artifact is written under a temporary name, synced to the disk and renamed."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def check(self) -> str:
        """See :class:`Store`. Deletes what killed writers left."""
        check_writable(self.root, "storage.uri")
        sweep(self.root)
        return f"folder {self.root}, writable"

    def publish(self, directory: Path, manifest: Manifest) -> ArtifactRef:
        """See :class:`Store`. The files are copied; ``directory`` is left as it is."""
        refuse_pickles(directory)
        ignore = _root_manifest(directory)
        self.admit(manifest, lambda staging: _copy(directory, staging, ignore))
        return self._ref(manifest)

    def admit(self, manifest: Manifest, fill: Callable[[Path], None]) -> Path:
        """Store an artifact, unless a whole copy of it is there already.

        Args:
            fill: puts the artifact's files into the new folder that it is given.

        Returns:
            The artifact's folder, whose files have just been verified.
        """
        ref = self._ref(manifest)
        target = self._directory(ref)
        if not self._is_whole(ref):
            with staging(target, folder=True) as folder:
                with full_disk_named(self.root, sum(entry.size for entry in manifest.files.values())):
                    fill(folder)
                verify(folder, manifest)
                write_synced(folder / MANIFEST, manifest.model_dump_json(indent=2))
                _sync_tree(folder)
                if not _rename_unless_there(folder, target):
                    verify(target, manifest)  # another writer was first, and its copy is as good if it is whole
        return target

    def _is_whole(self, ref: ArtifactRef) -> bool:
        """Whether the artifact is there and whole. A damaged one is renamed out of the way, to be made again."""
        directory = self._directory(ref)
        with contextlib.suppress(FileNotFoundError):  # not there, or another process has just moved it
            seen = os.open(directory, os.O_RDONLY)
            try:
                manifest = self.manifest(ref)
                if manifest is not None:
                    verify(directory, manifest)
                    return True
                _move_aside(directory, seen)
            except Damaged as error:
                logger.warning("moved aside, so that it is made again: %s", error)
                _move_aside(directory, seen)
            finally:
                os.close(seen)
        return False

    def fetch(self, ref: ArtifactRef) -> Path:
        """See :class:`Store`; each artifact is verified once per process."""
        directory = self._directory(ref)
        manifest = self._read(ref)
        if directory not in _VERIFIED:
            verify(directory, manifest)
            _VERIFIED.add(directory)
        return directory

    def _read(self, ref: ArtifactRef) -> Manifest:
        try:
            return read_manifest((self._directory(ref) / MANIFEST).read_bytes(), ref)
        except FileNotFoundError:
            raise Damaged(
                f"artifact {ref.kind}/{ref.short} is not in {self.root}: re-run the stage that makes it"
            ) from None

    def manifest(self, ref: ArtifactRef) -> Manifest | None:
        """See :class:`Store`."""
        if not (self._directory(ref) / MANIFEST).is_file():
            return None
        try:
            return self._read(ref)
        except Damaged as error:
            logger.warning("ignored: %s", error)
            return None

    def record(self, entry: StageRecord) -> None:
        """See :class:`Store`."""
        path = self._record_path(entry.stage, entry.fingerprint)
        with staging(path) as file:
            write_synced(file, entry.model_dump_json(indent=2))
            os.replace(file, path)

    def lookup(self, stage: str, fingerprint: str) -> StageRecord | None:
        """See :class:`Store`."""
        path = self._record_path(stage, fingerprint)
        if not path.is_file():
            return None
        entry = read_record(path.read_bytes(), str(path))
        return entry if entry and self.manifest(entry.ref) else None

    def latest(self, stage: str, profile: str) -> StageRecord | None:
        """See :class:`Store`."""
        paths = (self.root / "stages" / stage).glob("*.json")
        records = [read_record(path.read_bytes(), str(path)) for path in paths]
        return newest_whole(self, [entry for entry in records if entry and entry.profile == profile])

    @property
    def uri(self) -> str:
        """See :class:`Store`."""
        return self.root.as_uri()

    def damage(self, ref: ArtifactRef) -> list[str]:
        """See :class:`Store`."""
        directory = self._directory(ref)
        manifest = self._read(ref)
        return [name for name, _ in differences(directory, manifest.files)]

    def listing(self) -> list[Stored]:
        """See :class:`Store`."""
        return [stored for path in self.root.rglob("*") for stored in self._stored(path)]

    def _stored(self, path: Path) -> Iterator[Stored]:
        with contextlib.suppress(FileNotFoundError):  # a writer at work has renamed or removed its temporary file
            about = path.lstat()
            if not stat.S_ISDIR(about.st_mode):
                modified = datetime.fromtimestamp(about.st_mtime, UTC)
                yield Stored(path.relative_to(self.root).as_posix(), about.st_size, modified)

    def remove(self, stored: Stored) -> None:
        """See :class:`Store`. A folder is removed with the last file in it."""
        path = self.root / stored.name
        if stored not in self._stored(path):
            return
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a folder that is not empty
            for folder in path.parents:
                if folder == self.root:
                    return
                folder.rmdir()

    def claim(self, name: str, text: str) -> str:
        """See :class:`Store`."""
        path = self.root / "claims" / name
        with staging(path) as file:
            write_synced(file, text)
            with contextlib.suppress(FileExistsError):
                os.link(file, path)  # unlike a rename, a hard link never replaces what is there
        return path.read_text()

    def _ref(self, manifest: Manifest) -> ArtifactRef:
        directory = self.root / "artifacts" / manifest.kind / manifest.digest
        return ArtifactRef(kind=manifest.kind, uri=directory.as_uri(), sha256=manifest.digest)

    def _directory(self, ref: ArtifactRef) -> Path:
        return self.root / "artifacts" / ref.kind / ref.sha256

    def _record_path(self, stage: str, fingerprint: str) -> Path:
        return self.root / "stages" / stage / f"{fingerprint}.json"


def _root_manifest(directory: Path) -> Any:
    """Ignore rule for ``copytree``: a manifest in the source folder is not one of its files."""
    return lambda folder, names: [MANIFEST] if Path(folder) == directory and MANIFEST in names else []


def _copy(directory: Path, staging: Path, ignore: Any) -> None:
    """Copy a folder's files, but not their times."""
    # `gc` takes an unfinished folder with old files for the remains of an interrupted writer.
    shutil.copytree(directory, staging, ignore=ignore, copy_function=shutil.copy, dirs_exist_ok=True)


def _sync_tree(directory: Path) -> None:
    for path in (*directory.rglob("*"), directory):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _move_aside(directory: Path, seen: int) -> None:
    """Rename a damaged artifact, unless another writer has done so and made it again.

    Args:
        seen: descriptor of the folder that was found damaged. Its lock keeps another writer from renaming it between
            the comparison and the rename here, and what is not renamed cannot be replaced.
    """
    with contextlib.suppress(OSError):  # no locks here
        fcntl.flock(seen, fcntl.LOCK_EX)
    if os.path.samestat(os.fstat(seen), directory.stat()):
        directory.rename(directory.with_name(f".bad-{uuid.uuid4().hex}"))


def _rename_unless_there(staging: Path, target: Path) -> bool:
    """Rename ``staging`` to ``target``; ``False`` if another writer was first."""
    try:
        os.rename(staging, target)
    except OSError:
        if not (target / MANIFEST).is_file():
            raise
        return False
    return True
