"""The read cache in front of a bucket: a folder store that evicts the least recently read artifacts.

Several processes can share one cache. A process that reads an artifact holds a shared lock on a file in ``leases/``
until it ends, and only copies that nobody holds are evicted. The time of that file is the time of the last read.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

from qwenlong_core.store.artifacts import ArtifactRef
from qwenlong_core.store.local import LocalStore

logger = logging.getLogger(__name__)

_KEPT_FREE = 0.1
"""Share of the disk that is kept free if no limit is given."""
_ABANDONED_SECONDS = 86_400
"""Age of an unfinished copy whose process must be gone."""
_HELD: dict[Path, TextIO] = {}
"""Leases of this process. The files stay open, and so locked, until it ends."""


class _Copy(NamedTuple):
    folder: Path
    lease: Path
    size: int
    read: float
    """Time of the last read, seconds since 1970."""


class ReadCache(LocalStore):
    """Copies of a bucket's artifacts: at most ``limit`` bytes, or, without a limit, all but a tenth of the disk."""

    def __init__(self, root: Path, limit: float | None) -> None:
        super().__init__(root)
        self._limit = limit

    def hold(self, ref: ArtifactRef) -> None:
        """Protect an artifact's copy, whether it exists or not, from eviction until this process ends."""
        lease = self._lease(ref.kind, ref.sha256)
        if lease not in _HELD:
            lease.parent.mkdir(parents=True, exist_ok=True)
            stream = lease.open("a")
            fcntl.flock(stream, fcntl.LOCK_SH)
            _HELD[lease] = stream
        os.utime(_HELD[lease].fileno())

    def make_room(self, size: int) -> None:
        """Evict copies, the least recently read first, until ``size`` more bytes fit.

        Raises:
            OSError: the disk is too small.
        """
        self._sweep()
        copies = sorted(self._copies(), key=lambda copy: copy.read)
        cached = sum(copy.size for copy in copies)
        for copy in copies:
            if self._fits(cached, size):
                return
            if self._evict(copy):
                cached -= copy.size
        free = shutil.disk_usage(self.root).free
        if free < size:
            needed = (
                f"storage.cache_dir has {free / 1e9:.2f} GB free and {size / 1e9:.2f} GB are to be read: make room, or"
                " choose another"
            )
            raise OSError(errno.ENOSPC, needed, str(self.root))
        if not self._fits(cached, size):
            logger.info("the cache exceeds its limit: everything in it is in use")

    def _fits(self, cached: int, size: int) -> bool:
        disk = shutil.disk_usage(self.root)
        if self._limit is None:
            return disk.free - size >= _KEPT_FREE * disk.total
        return cached + size <= self._limit and size <= disk.free

    def _copies(self) -> Iterator[_Copy]:
        for folder in self.root.glob("artifacts/*/[!.]*"):
            lease = self._lease(folder.parent.name, folder.name)
            size = sum(stored.size for path in folder.rglob("*") for stored in self._stored(path))
            yield _Copy(folder, lease, size, lease.stat().st_mtime if lease.exists() else 0.0)

    def _evict(self, copy: _Copy) -> bool:
        """Evict a copy, unless a process holds it; returns whether it did."""
        copy.lease.parent.mkdir(parents=True, exist_ok=True)
        with copy.lease.open("a") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            # Renamed first: an interrupted deletion must not leave half an artifact under its name.
            aside = copy.folder.with_name(f".bad-{uuid.uuid4().hex}")
            with contextlib.suppress(FileNotFoundError):  # another process was first
                copy.folder.rename(aside)
                shutil.rmtree(aside)
                logger.info("evicted %s from the cache", copy.folder)
            return True

    def _sweep(self) -> None:
        """Delete what interrupted processes left behind."""
        for folder in [*self.root.glob("artifacts/*/.tmp-*"), *self.root.glob("artifacts/*/.bad-*")]:
            with contextlib.suppress(FileNotFoundError):  # its owner is still at work on it
                touched = max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
                if time.time() - touched > _ABANDONED_SECONDS:
                    shutil.rmtree(folder)

    def _lease(self, kind: str, digest: str) -> Path:
        return self.root / "leases" / f"{kind}-{digest}"
