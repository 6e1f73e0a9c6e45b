"""Read the records of a file one by one, in any of these formats: JSON, JSONL, CSV, TSV, parquet.

JSON may hold lists, objects keyed by id, single objects, and several of them one after the other. Text files may be
compressed. In place of a record that cannot be read comes the reason, as a string. Lists and lines are read lazily,
so that memory does not grow with the file.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qwenlong_core.data.sources.jsontext import Bad, JsonText, decode
from qwenlong_core.data.sources.streams import (
    COMPRESSIONS,
    MAX_LINE_BYTES,
    READ_ERRORS,
    lines,
    open_text,
    uncompressed_name,
    what_is_wrong,
)

_BATCH_ROWS = 64

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
"""Endings of the files that are read, in any case; those of text also with one of a compression after them."""

Records = Iterator[tuple[int, dict[str, Any] | str]]


def kind_of(path: Path) -> str | None:
    """The file's format by its name, one of :data:`SUFFIXES`; ``None`` for another ending."""
    suffix = Path(uncompressed_name(path).lower()).suffix
    if suffix == ".parquet" and path.suffix.lower() in COMPRESSIONS:
        return None
    return suffix if suffix in SUFFIXES else None


def stem_of(path: Path) -> str:
    """The file's name without the endings of its format and compression."""
    return Path(uncompressed_name(path)).stem if kind_of(path) else path.name


def records(path: Path) -> Records:
    """The records of the file with their numbers, counted from 1; a string is why a record cannot be read.

    A file with another ending than :data:`SUFFIXES` is read as JSONL.
    """
    kind = kind_of(path)
    if kind == ".parquet":
        yield from _parquet(path)
    elif kind in (".json", ".csv", ".tsv"):
        number = 0
        try:
            for number, record in _json(path) if kind == ".json" else _table(path, "\t" if kind == ".tsv" else ","):
                yield number, record
        except READ_ERRORS as error:
            yield number + 1, what_is_wrong(error)
    else:
        for number, line in lines(path):
            if isinstance(line, str):
                yield number, line
            elif line.strip():
                yield number, parse_object(line)


def parse_object(text: bytes) -> dict[str, Any] | str:
    """The JSON object in the text, or the reason why there is none."""
    try:
        return _object_or_reason(decode(text.decode()))
    except UnicodeDecodeError as error:
        return f"not valid UTF-8 at byte {error.start}"


def _object_or_reason(value: Any) -> dict[str, Any] | str:
    if isinstance(value, dict | Bad):
        return value
    return f"a {type(value).__name__}, not an object"


def _json(path: Path) -> Records:
    with open_text(path) as stream:
        for number, value in enumerate(JsonText(stream).rows(), 1):
            yield number, _object_or_reason(value)


def _table(path: Path, delimiter: str) -> Records:
    csv.field_size_limit(MAX_LINE_BYTES)
    with open_text(path) as stream:
        reader = csv.DictReader(stream, delimiter=delimiter)
        try:
            names = reader.fieldnames or ()
        except csv.Error as error:
            yield 1, f"not a valid table head: {error}"
            return
        if twice := [name for name in dict.fromkeys(names) if list(names).count(name) > 1]:
            yield 1, f"several columns named {', '.join(map(repr, twice))}: give each a name of its own"
            return
        number = 0
        while True:
            number += 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield number, f"not a valid table row: {error}"
                continue
            # csv.DictReader puts surplus cells under the key None, and None into missing cells.
            broken = None in row or None in row.values()
            yield number, "a row with too few or too many cells" if broken else dict(row)


def _parquet(path: Path) -> Records:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        yield 1, f"not a readable parquet file: {error}"
        return
    number = 0
    try:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        yield number + 1, f"the parquet file is damaged from here on: {error}"
