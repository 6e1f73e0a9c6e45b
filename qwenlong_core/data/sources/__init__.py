"""Where rows come from: one function per upstream format, each a stream of examples and refusals.

A source specification is ``generated``, a path or glob of JSONL files in the uniform record, or
``NAME:PATH_OR_HUB_ID``. A row that cannot be read is a :class:`Refused` with file, line and reason;
it neither stops the stream nor vanishes. A source without any file is an error at the door.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator
from pathlib import Path

from qwenlong_core.data.sources.docqa_rl import read_docqa_rl
from qwenlong_core.data.sources.uniform import read_uniform
from qwenlong_core.data.sources.validation import Refused
from qwenlong_core.records import Example

__all__ = ["GENERATED", "Refused", "check", "local_files", "read_source"]

GENERATED = "generated"
_GLOB_CHARACTERS = frozenset("*?[")

Reader = Callable[[Path, str], Iterator[Example | Refused]]

_READERS: dict[str, Reader] = {"jsonl": read_uniform, "docqa-rl": read_docqa_rl}

_HUB_FILES = {"docqa-rl": "train.parquet"}
"""File inside a hub repository that holds the rows of a named source."""


def _split(spec: str) -> tuple[str, str]:
    name, colon, rest = spec.partition(":")
    if colon and name in _READERS:
        return name, rest
    return "jsonl", spec


def local_files(spec: str) -> list[Path]:
    """The local files a source reads, sorted; none for ``generated`` and for a hub id.

    Raises:
        ValueError: the path or glob matches no file, or the source's name is unknown.
    """
    if spec == GENERATED:
        return []
    name, location = _split(spec)
    if name in _HUB_FILES and _is_hub_id(location):
        return []
    if Path(location).is_file():
        return [Path(location)]
    if set(location) & _GLOB_CHARACTERS:
        files = sorted(path for path in map(Path, glob.glob(location, recursive=True)) if path.is_file())
        if files:
            return files
    raise ValueError(
        f"data source {spec!r}: no file matches {location!r}. Give an existing path or glob of JSONL files, "
        f"{GENERATED!r}, or NAME:PATH_OR_HUB_ID with NAME one of {', '.join(_READERS)}"
    )


def _is_hub_id(location: str) -> bool:
    owner, slash, rest = location.partition("@")[0].partition("/")
    return bool(owner and slash and rest) and "/" not in rest and not owner.startswith(".") and not Path(location).exists()


def check(spec: str) -> None:
    """Raise ``ValueError`` now if the source cannot be read later for want of a file."""
    local_files(spec)


def read_source(spec: str) -> Iterator[Example | Refused]:
    """All rows of a source other than ``generated``, in file and line order.

    Raises:
        ValueError: no file matches.
        ConnectionError: a hub id cannot be fetched; names the id and the way around.
    """
    name, location = _split(spec)
    for path in local_files(spec) or [_fetch(name, location)]:
        yield from _READERS[name](path, str(path))


def _fetch(name: str, location: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repo, _, revision = location.partition("@")
    file = _HUB_FILES[name]
    try:
        return Path(hf_hub_download(repo, file, repo_type="dataset", revision=revision or None))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ConnectionError(
            f"data source {name}:{location}: {file} of the hub dataset {repo!r} could not be fetched ({error}). "
            f"Without network download it elsewhere and give its path: {name}:/path/to/{file}"
        ) from error
