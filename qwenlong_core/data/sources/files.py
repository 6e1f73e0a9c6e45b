"""Read the records of a file one by one, in any of these formats: JSON, JSONL, CSV, TSV, parquet.

JSON may hold a list, an object keyed by id, or a single object. Text files may be gzipped. In place of a record
that cannot be read comes the reason, as a string. Lists and lines are read lazily, so that memory does not grow
with the file.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

MAX_LINE_BYTES = 64 * 2**20
"""Longest line read; longer lines are skipped without holding them in memory."""
_CHUNK_CHARACTERS = 2**20
_BATCH_ROWS = 64

SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")

Records = Iterator[tuple[int, dict[str, Any] | str]]


def kind_of(path: Path) -> str:
    """The file's format, by its name without ``.gz``: one of :data:`SUFFIXES`, else ``.jsonl``."""
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    return suffix if suffix in SUFFIXES else ".jsonl"


def records(path: Path) -> Records:
    """The records of the file with their numbers, counted from 1; a string is why a record cannot be read."""
    kind = kind_of(path)
    if kind == ".parquet":
        yield from _parquet(path)
    elif kind == ".jsonl":
        yield from _json_lines(path)
    else:
        number = 0
        try:
            for number, record in _json(path) if kind == ".json" else _table(path, "\t" if kind == ".tsv" else ","):
                yield number, record
        except UnicodeDecodeError as error:
            yield number + 1, f"not valid UTF-8: {error.reason}"
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            yield number + 1, f"the compressed file is damaged from here on: {error}"


def open_bytes(path: Path) -> IO[bytes]:
    """The file's bytes, decompressed if its name ends in ``.gz``."""
    return cast("IO[bytes]", gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _open_text(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def lines(path: Path) -> Iterator[tuple[int, bytes | str]]:
    """The lines of a plain or gzipped file with their numbers; a string is why a line cannot be read."""
    number = 0
    with open_bytes(path) as stream:
        while True:
            number += 1
            try:
                line = stream.readline(MAX_LINE_BYTES + 1)
                too_long = len(line) > MAX_LINE_BYTES
                while too_long and line and not line.endswith(b"\n"):
                    line = stream.readline(MAX_LINE_BYTES)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                yield number, f"the compressed file is damaged from here on: {error}"
                return
            if too_long:
                yield number, f"the line is longer than {MAX_LINE_BYTES:,} bytes"
            elif line:
                yield number, line
            else:
                return


def _json_lines(path: Path) -> Records:
    for number, line in lines(path):
        if isinstance(line, str):
            yield number, line
        elif line.strip():
            yield number, parse_object(line)


def parse_object(text: bytes) -> dict[str, Any] | str:
    """The JSON object in the text, or the reason why there is none."""
    try:
        row = json.loads(text.decode())
    except UnicodeDecodeError as error:
        return f"not valid UTF-8 at byte {error.start}"
    except json.JSONDecodeError as error:
        return f"not valid JSON: {error.msg} at column {error.colno}"
    except RecursionError:
        return "not valid JSON: nested too deeply"
    return row if isinstance(row, dict) else f"a {type(row).__name__}, not an object"


def _json(path: Path) -> Records:
    with _open_text(path) as stream:
        head = stream.read(_CHUNK_CHARACTERS)
        if head.lstrip().startswith("["):
            yield from _elements(stream, head.lstrip()[1:])
            return
        try:
            whole = json.loads(head + stream.read())
        except (json.JSONDecodeError, RecursionError) as error:
            yield 1, f"not valid JSON: {error}"
            return
    if isinstance(whole, dict) and isinstance(whole.get("data"), list):
        whole = {str(index): item for index, item in enumerate(whole["data"])}
    if not isinstance(whole, dict):
        yield 1, f"a {type(whole).__name__}, not a list or an object"
    elif whole and all(isinstance(value, dict) for value in whole.values()):
        for number, (key, value) in enumerate(whole.items(), 1):
            yield number, {"id": key, **value}
    else:
        yield 1, whole


def _elements(stream: IO[str], buffer: str) -> Records:
    """The elements of a JSON list, one at a time; its opening bracket has been read already."""
    decoder, number, position = json.JSONDecoder(), 0, 0
    while True:
        while position < len(buffer) and buffer[position] in " \t\r\n,":
            position += 1
        if buffer.startswith("]", position):
            return
        try:
            element, end = decoder.raw_decode(buffer, position)
        except json.JSONDecodeError as error:
            # The element may just be incomplete. Doubling the buffer keeps the total work linear.
            more = stream.read(max(_CHUNK_CHARACTERS, len(buffer)))
            if not more:
                yield number + 1, f"not valid JSON from here on: {error.msg}"
                return
            buffer, position = buffer[position:] + more, 0
            continue
        number += 1
        yield number, element if isinstance(element, dict) else f"a {type(element).__name__}, not an object"
        position = end
        if position > _CHUNK_CHARACTERS:
            buffer, position = buffer[position:], 0


def _table(path: Path, delimiter: str) -> Records:
    csv.field_size_limit(MAX_LINE_BYTES)
    with _open_text(path) as stream:
        reader = csv.DictReader(stream, delimiter=delimiter)
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
