"""Temporary names in a store. A lock tells what a killed writer left from what a living one is writing.

Where the file system has no such locks for what is only read (NFS), nothing is swept, and `qwenlong artifacts gc`
deletes it by age.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LEFT = ("artifacts/*/.tmp-*", "stages/*/.tmp-*", "claims/.tmp-*", ".probe-*")


@contextmanager
def staging(target: Path, *, folder: bool = False) -> Iterator[Path]:
    """A new file or folder beside ``target``, to be filled and renamed; if it is still there afterwards, it goes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    path, descriptor = _locked(target, folder)
    try:
        yield path
    finally:
        _delete(path)
        os.close(descriptor)


def _locked(target: Path, folder: bool) -> tuple[Path, int]:
    while True:
        path = target.with_name(f".tmp-{uuid.uuid4().hex}")
        path.mkdir() if folder else path.touch()
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY)
            with contextlib.suppress(OSError):  # no locks here
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            if path.exists():
                return path, descriptor
            os.close(descriptor)  # swept before it was locked


def sweep(root: Path) -> None:
    """Delete what killed writers left in a store."""
    for path in [path for pattern in _LEFT for path in root.glob(pattern)]:
        with contextlib.suppress(OSError):  # its writer is at work, or no locks here
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _delete(path)
            finally:
                os.close(descriptor)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
