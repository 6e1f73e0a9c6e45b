"""Files known by their content: digests, the list of a folder's files, and what differs from such a list.

Artifacts and training checkpoints share this format. Both are folders with a ``manifest.json`` whose
``files`` name every file with its SHA-256 and size. It is written last, so a folder without it was never finished.

Training stages import this module, and every module that a stage imports is part of its fingerprint. Keep
it free of anything that cannot change a result.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from qwenlong_core.settings.base import Block

MANIFEST = "manifest.json"
_BLOCK = 1 << 20
METRICS, JOB = "metrics.jsonl", "job.json"
"""Beside a stage's result: its progress, one line a step, and the job it was given."""


def _inside(name: str) -> str:
    """Refuse a name that leads out of the folder, or that two stores could read differently."""
    parts = name.split("/")
    if not name or not name.isprintable() or "\\" in name or any(part in ("", ".", "..") for part in parts):
        raise ValueError(
            f"{name!r} cannot be the name of a file in an artifact: give a relative path with '/' between its parts, "
            "without empty parts, '.', '..', backslashes and control characters"
        )
    if name == MANIFEST:
        raise ValueError(f"{name!r} is the manifest's own name: call the file something else")
    return name


FileName = Annotated[str, AfterValidator(_inside)]
"""Path of a file below its folder, POSIX; it cannot leave the folder."""


class FileEntry(Block):
    """Digest and size in bytes of one file."""

    # Part of a note's key in a bucket: the pattern keeps it from leading elsewhere.
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]+$")]
    size: Annotated[int, Field(ge=0)]


Files = dict[FileName, FileEntry]
"""What a folder holds, by path below it."""


class Seal(Block):
    """The manifest of a training checkpoint. That of an artifact says more (``store.artifacts.Manifest``)."""

    files: Files


def read_seal(folder: Path) -> Seal:
    """The manifest of a sealed checkpoint.

    Raises:
        FileNotFoundError: there is none, since the checkpoint was never finished or has been pruned.
        ValueError: it cannot be read: it is damaged, or of an earlier version of this program.
    """
    return Seal.model_validate_json((folder / MANIFEST).read_bytes())


def digest_json(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file, read in chunks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_below(folder: Path) -> list[Path]:
    """All files below a folder in a fixed order, except the folder's own manifest."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)


def list_files(folder: Path, files: Iterable[Path] | None = None) -> dict[str, FileEntry]:
    """An entry for every file below a folder, or for ``files`` of it, by its path there; every byte is read."""
    return {
        path.relative_to(folder).as_posix(): FileEntry(sha256=digest_file(path), size=path.stat().st_size)
        for path in (files_below(folder) if files is None else files)
    }


def differences(folder: Path, files: Mapping[str, FileEntry]) -> Iterator[tuple[str, str]]:
    """The listed files that are not as listed: each name, and what is wrong in words.

    Every byte is read, but only as far as the caller iterates: ``next(..., None)`` stops at the first.
    """
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            yield name, "is missing"
        # The size first: it is free, and tells a file that was cut short without reading it.
        elif path.stat().st_size != entry.size or digest_file(path) != entry.sha256:
            yield name, "does not match the manifest"


def drop_cut_line(path: Path) -> None:
    """Cut a log back to its last whole line, in place. A missing log becomes an empty one."""
    path.touch()
    with path.open("rb+") as stream:
        end = stream.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _BLOCK)
            stream.seek(start)
            cut = stream.read(end - start).rfind(b"\n") + 1
            end = start + cut
            if cut:
                break
        stream.truncate(end)


def write_synced(path: Path, text: str) -> None:
    """Write a new file and wait until it is on the disk."""
    with path.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def write_whole(path: Path, text: str) -> None:
    """Replace a file so that a reader, or a crash, sees the old content or the new, never half of it.

    The new content is first written beside the file, as ``NAME.tmp``: of two writers at once the name
    must be one writer's own.
    """
    temporary = path.with_name(path.name + ".tmp")
    write_synced(temporary, text)
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """:func:`write_whole` for a JSON value, with sorted keys."""
    write_whole(path, json.dumps(value, indent=1, sort_keys=True))
