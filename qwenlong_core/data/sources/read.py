"""Read the rows of a data source as a stream of examples and refusals.

A source is named by ``generated``; by ``ruler`` or ``ruler:FOLDER``, whose rows are made here too; by a path, folder
or glob of files in the uniform record; or by ``NAME:PATH_OR_HUB_ID`` with a name from :data:`~.catalogue.SOURCES`
(``NAME:`` alone means the source's own hub id). A row that cannot be read does not stop the stream: it comes out as a
:class:`Refused` with file, line and reason. A source without any file is an error.
"""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Iterator
from pathlib import Path

from qwenlong_core.data.ruler.copies import RULER, copies_of, is_ruler
from qwenlong_core.data.sources.catalogue import SOURCES, Source, sources
from qwenlong_core.data.sources.files import kind_of, records
from qwenlong_core.data.sources.places import GLOB_CHARACTERS, Found, LeftOut, files_at, in_words
from qwenlong_core.data.sources.published import ZIP, BadArchive, download_command, hub_copy, opened, published_files
from qwenlong_core.data.sources.validation import BadRow, Refused, checked
from qwenlong_core.proxies import by_way_of
from qwenlong_core.records import Example, example_from_dict

logger = logging.getLogger(__name__)

GENERATED = "generated"


def is_made(spec: str) -> bool:
    """Whether the rows of a source are made here, not read: ``generated``, and RULER's."""
    return spec == GENERATED or is_ruler(spec)


def _split(spec: str) -> tuple[Source, str]:
    name, colon, rest = spec.partition(":")
    if colon and (source := sources().get(name)):
        return source, rest or source.hub or source.place
    return sources()["jsonl"], spec


def location_of(spec: str) -> str:
    """Where a source's rows are: a path, folder, glob or hub id."""
    return _split(spec)[1]


def local_files(spec: str) -> list[Path]:
    """The local files that a source depends on, sorted; none for ``generated``, ``ruler`` alone and a hub id.

    Raises:
        ValueError: no file matches the path, folder or glob, or the source's name is unknown.
    """
    if is_ruler(spec):
        return copies_of(spec)
    return [] if is_made(spec) else _found(spec).files


def left_out(spec: str) -> list[LeftOut]:
    """The files in a source's folder or glob that are not read, each with its reason; see :mod:`~.places`."""
    return [] if is_made(spec) else _found(spec).left_out


def _found(spec: str) -> Found:
    source, location = _split(spec)
    if location and _is_hub_id(source, location):
        return Found([], [])
    try:
        files, others = _at(source, location)
    except ValueError as error:
        raise ValueError(f"data source {spec!r}: {error}") from error
    if files:
        beside = {path for file in files for pattern in source.beside for path in file.parent.glob(pattern)}
        return Found(sorted({*files, *beside}), [item for item in others if item.path not in beside])
    where = f" Where to get it: {source.note}." if source.note and source.name != "jsonl" else ""
    there = f" Left out there: {in_words(others)}." if others else ""
    raise ValueError(
        f"data source {spec!r}: no file matches {location!r}.{there}{where} Give an existing path, folder or glob, "
        f"{GENERATED!r}, {RULER!r}, or NAME:PATH_OR_HUB_ID with NAME one of {', '.join(sources())}"
    )


def _at(source: Source, location: str) -> Found:
    """The files of rows at a location. A folder that holds published files of the source is a copy of them."""
    files, others = files_at(location)
    published = published_files(source, Path(location))[0] if location and Path(location).is_dir() else []
    if not published:
        return Found(files, others)
    others = [*others, *(LeftOut(path, f"not of {source.name}'s published files") for path in files)]
    return Found(published, [item for item in others if item.path not in published])


def _is_hub_id(source: Source, location: str) -> bool:
    if source.hub is None or Path(location).exists() or set(location) & GLOB_CHARACTERS:
        return False
    if kind_of(Path(location)):
        return False  # data/train.parquet has the form of a hub id, but is a mistyped path
    owner, slash, name = location.partition("@")[0].partition("/")
    return bool(owner and slash and name) and "/" not in name and not owner.startswith((".", "~"))


def hub_repo(spec: str) -> tuple[Source, str] | None:
    """The source and the hub id (with its revision) that a spec is fetched from, or ``None`` for anything local."""
    if is_made(spec):
        return None
    source, location = _split(spec)
    return (source, location) if location and _is_hub_id(source, location) else None


def from_copies(spec: str, folder: Path) -> str:
    """The spec of the copy of its hub data set in ``folder``; a spec that names no hub id is returned as it is.

    Raises:
        ValueError: the copy is not whole; the message has the command that fetches it.
    """
    hub = hub_repo(spec)
    if hub is None:
        return spec
    source, location = hub
    return f"{source.name}:{hub_copy(source, location, folder)}"


def read_source(spec: str) -> Iterator[Example | Refused]:
    """All rows of a source that is read, not made, in order of file and line; see :func:`read_by_file`."""
    for _, rows in read_by_file(spec):
        yield from rows


def read_by_file(spec: str) -> Iterator[tuple[Path, Iterator[Example | Refused]]]:
    """Each file of a source that is read, not made, with the stream of its rows.

    Raises:
        ValueError: no file matches.
        ConnectionError: the hub id cannot be fetched; the message says how to give a path instead.
    """
    source, location = _split(spec)
    if others := left_out(spec):
        logger.warning("data source %s: not read: %s", spec, in_words(others))
    for path in _at(source, location).files or _fetch(source, location):
        yield path, read_files(source, [path])


def read_files(source: Source, files: list[Path]) -> Iterator[Example | Refused]:
    """The rows of these files, read in the source's format."""
    for path in files:
        if path.suffix == ZIP and not source.member:
            continue  # the rows of the other files are completed from it
        try:
            with opened(source, path) as inner:
                yield from _rows(source, inner, str(path) if inner == path else f"{path}/{source.member}")
        except BadArchive as error:
            yield Refused(str(path), 1, str(error))


def misread(spec: str, path: Path) -> str:
    """A sentence on a file of which no row could be read as ``spec``: which format its first row has."""
    own, _ = _split(spec)
    fits = [source.name for source in sources().values() if source.name != own.name and _reads_first(source, path)]
    said = f"No row of {path} reads as {own.name}"
    if fits:
        return f"{said}, but its first one does as {' and '.join(fits)}: give {fits[0]} as the format of this file"
    return f"{said}, nor as any other format: docs/data.md shows what the rows of each look like"


def _reads_first(source: Source, path: Path) -> bool:
    try:
        first = next(iter(_rows(source, path, str(path))), None)
    except (ValueError, OSError):  # a file that no reader of records takes
        return False
    return first is not None and not isinstance(first, Refused)


def _rows(source: Source, path: Path, name: str) -> Iterator[Example | Refused]:
    """The rows of one file, which refusals call ``name``."""
    for number, record in records(path):
        if isinstance(record, str):
            yield Refused(name, number, record)
            continue
        try:
            for example in source.parse(record, path, number):
                # Another distribution's code may make what no later reader of the row takes.
                own = source.name in SOURCES
                yield checked(example if own else example_from_dict(example.to_dict()))
        except BadRow as error:
            yield Refused(name, number, str(error))
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            # The record has another shape than documented: refuse it with Python's own message.
            yield Refused(name, number, f"a field of the wrong type: {type(error).__name__}: {error}")


def _fetch(source: Source, location: str) -> list[Path]:
    # Lazy: only hub ids need these. httpx2 is huggingface_hub's client, whose errors list_repo_files passes on.
    import httpx2
    from huggingface_hub import HfApi, constants, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    repo, _, revision = location.partition("@")
    try:
        names = list(source.files)
        if any(set(name) & GLOB_CHARACTERS for name in names):
            listed = HfApi().list_repo_files(repo, repo_type="dataset", revision=revision or None)
            names = [name for name in listed if any(fnmatch.fnmatch(name, pattern) for pattern in source.files)]
        if not names:
            raise ValueError(
                f"the hub dataset {repo!r} has no file {' or '.join(source.files)}: download the data and give its path"
            )
        return [Path(hf_hub_download(repo, name, repo_type="dataset", revision=revision or None)) for name in names]
    except (LocalEntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled, httpx2.HTTPError, OSError) as error:
        raise ConnectionError(
            f"data source {source.name}:{location}: {', '.join(source.files)} of the hub dataset {repo!r} could not be "
            f"fetched ({error}){by_way_of(constants.ENDPOINT)}. Without network, download it elsewhere and give its "
            f"path: {source.name}:/path/to/{source.files[0]}, or the folder DIR of "
            f"`{download_command(source, location, 'DIR')}`"
        ) from error
