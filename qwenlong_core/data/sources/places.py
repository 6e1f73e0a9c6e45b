"""Which files of a path, folder or glob are read, and why the others are not.

One rule for folders and globs: a file is read if its ending is known (:func:`~.files.kind_of`), in folders below too
and through links. Hidden files and folders, such as the checkpoint copies of notebooks, and files with other endings
are left out, each with its reason. A link with a known ending that leads nowhere is an error: its rows are missing.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from qwenlong_core.data.sources.files import kind_of

GLOB_CHARACTERS = frozenset("*?[")
_HIDDEN, _LOST = "hidden", "links to nothing"
_SHOWN = 5


class LeftOut(NamedTuple):
    """A file or folder that is not read."""

    path: Path
    reason: str


class Found(NamedTuple):
    """The files of a place, sorted."""

    files: list[Path]
    left_out: list[LeftOut]


def files_at(location: str) -> Found:
    """The files to read at a path, folder or glob, and those left out; none if nothing is there.

    A path that names a file is read whatever its ending.

    Raises:
        ValueError: a link with a known ending leads nowhere.
    """
    path = Path(location)
    if location and path.is_file():
        return Found([path], [])
    if location and path.is_dir():
        found = dict(_below(path))
    elif set(location) & GLOB_CHARACTERS:
        found = dict(_matching(location))
    else:
        found = {path: _LOST} if location and path.is_symlink() else {}
    if lost := sorted(path for path, reason in found.items() if reason == _LOST):
        links = ", ".join(f"{path} -> {os.readlink(path)}" for path in lost[:_SHOWN])
        raise ValueError(f"{len(lost)} links lead nowhere ({links}): restore what they point to, or remove them")
    files = sorted(path for path, reason in found.items() if reason is None)
    return Found(files, sorted(LeftOut(path, reason) for path, reason in found.items() if reason is not None))


def in_words(left_out: Sequence[LeftOut]) -> str:
    """How many files were left out for which reason, and the first of them by name."""
    counts = ", ".join(f"{count} {reason}" for reason, count in Counter(item.reason for item in left_out).items())
    more = ", ..." if len(left_out) > _SHOWN else ""
    return f"{counts}: {', '.join(str(item.path) for item in left_out[:_SHOWN])}{more}"


def _below(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """Every file below the folder, with the reason why it is not read, or ``None``."""
    seen = {os.path.realpath(folder)}
    for place, folders, files in os.walk(folder, followlinks=True):
        here, entered = Path(place), []
        for name in sorted(folders):
            real = os.path.realpath(here / name)
            if name.startswith("."):
                yield here / name, _HIDDEN
            elif real in seen:  # through another link, or a circle of links
                yield here / name, "a folder that is read already"
            else:
                seen.add(real)
                entered.append(name)
        folders[:] = entered
        yield from ((here / name, _why_not(here / name)) for name in files)


def _matching(pattern: str) -> Iterator[tuple[Path, str | None]]:
    """Every file that the glob matches, and the hidden ones that its wildcards pass over."""
    plain = set(glob.glob(pattern, recursive=True))
    for name in glob.glob(pattern, recursive=True, include_hidden=True):
        path = Path(name)
        if name not in plain:
            yield path, _HIDDEN
        elif not path.is_dir():
            yield path, _why_not(path)
        elif "**" not in pattern:
            yield path, "a folder"


def _why_not(path: Path) -> str | None:
    """Why a file is not read, or ``None``."""
    if path.name.startswith("."):
        return _HIDDEN
    if kind_of(path) is None:
        return f"with the ending {path.suffix!r}" if path.suffix else "without an ending"
    if path.is_symlink() and not path.exists():
        return _LOST
    return None if path.is_file() else "not a regular file"
