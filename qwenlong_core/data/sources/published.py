"""The files that a source's authors publish, in a folder or in a zip archive."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from qwenlong_core.data.sources.catalogue import Source

ZIP = ".zip"


class BadArchive(ValueError):
    """An archive that does not give the file it should hold."""


def published_files(source: Source, folder: Path) -> tuple[list[Path], list[str]]:
    """The published files of a source below a folder, sorted, and the names of those that are missing.

    An archive may also lie there unpacked, with or without its own folders.
    """
    found: list[Path] = []
    missing = []
    for pattern in source.files:
        unpacked = [source.member, Path(source.member).name] if source.member and pattern.endswith(ZIP) else []
        matches = next((m for name in (*unpacked, pattern) if (m := sorted(folder.glob(name)))), [])
        found += matches
        missing += [] if matches else [pattern]
    return sorted(set(found)), missing


def download_command(source: Source, location: str, folder: Path | str) -> str:
    """The command that fetches the published files of a hub id, with or without a revision, into a folder."""
    repo, _, revision = location.partition("@")
    patterns = any("*" in name for name in source.files)
    names = " ".join(f"'{name}'" if patterns else name for name in source.files)
    options = f"{'--include ' if patterns else ''}{names}{f' --revision {revision}' if revision else ''}"
    return f"hf download {repo} {options} --repo-type dataset --local-dir {folder}"


def hub_copy(source: Source, location: str, folder: Path) -> Path:
    """The copy ``folder/OWNER/NAME`` of a hub data set.

    Raises:
        ValueError: a published file is not there; the message has the command that fetches it.
    """
    copy = folder / location.partition("@")[0]
    _, missing = published_files(source, copy)
    if missing:
        raise ValueError(
            f"data source {source.name}: {copy} holds no {', '.join(missing)}. Fetch it with "
            f"`{download_command(source, location, copy)}`"
        )
    return copy


@contextmanager
def opened(source: Source, path: Path) -> Iterator[Path]:
    """The file itself, or for the time of the block what the source takes from a zip archive.

    Raises:
        BadArchive: the archive is damaged, or lacks the file.
    """
    if path.suffix != ZIP or not source.member:
        yield path
        return
    with TemporaryDirectory(prefix="qwenlong-") as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                inner = Path(archive.extract(source.member, folder))
        except (zipfile.BadZipFile, KeyError, EOFError) as error:
            raise BadArchive(f"{path} gives no {source.member}: {error}") from error
        yield inner
