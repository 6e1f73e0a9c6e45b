"""Open a data file: decompressed by its ending, as bytes, lines or text, with what is wrong with it in words."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

MAX_LINE_BYTES = 64 * 2**20
"""Longest line read; longer lines are skipped without holding them in memory."""
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
_OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16, whose mark it starts with
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


class Unreadable(ValueError):
    """Why nothing more of a file can be read."""


def uncompressed_name(path: Path) -> str:
    """The file's name without the ending of a compression, whatever its case."""
    return path.name[: -len(path.suffix)] if path.suffix.lower() in COMPRESSIONS else path.name


def open_bytes(path: Path) -> io.BufferedIOBase:
    """The file's bytes, decompressed if its name ends in one of :data:`COMPRESSIONS`."""
    ending = path.suffix.lower()
    if ending == ".zst":
        # pyarrow stubs know no io class, but its streams have the methods of one.
        return io.BufferedReader(cast(io.RawIOBase, pa.CompressedInputStream(str(path), "zstd")))
    openers: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    return cast(io.BufferedIOBase, openers.get(ending, open)(path, "rb"))


def what_is_wrong(error: Exception) -> str:
    """An error of reading in words.

    Raises:
        OSError: the error itself, if it is one of the disk and not of the file's content.
    """
    if isinstance(error, UnicodeDecodeError):
        return f"not valid UTF-8: {error.reason}"
    if isinstance(error, Unreadable):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    return f"the compressed file is damaged from here on: {error}"


READ_ERRORS = (UnicodeDecodeError, Unreadable, EOFError, OSError, zlib.error, lzma.LZMAError)
"""What reading can raise; :func:`what_is_wrong` tells them apart."""


def _check_encoding(stream: io.BufferedIOBase) -> None:
    """Refuse text of another encoding by its name; as UTF-8, each of its lines would be refused.

    Raises:
        Unreadable: the text is UTF-16 or UTF-32.
    """
    head = cast(io.BufferedReader, stream).peek(4)[:4]
    name = next((name for mark, name in _OTHER_MARKS.items() if head.startswith(mark)), None)
    if name is None and b"\x00" in head[:2]:  # no mark, but every second byte of plain letters is zero
        name = "UTF-16"
    if name:
        raise Unreadable(f"the file is {name}, not UTF-8: convert it (iconv -f {name} -t UTF-8)")


def open_text(path: Path) -> IO[str]:
    """The file's text, UTF-8 with or without a byte-order mark.

    Raises:
        Unreadable: the text has another encoding.
    """
    stream = open_bytes(path)
    _check_encoding(stream)
    return io.TextIOWrapper(cast(IO[bytes], stream), encoding="utf-8-sig", newline="")


def lines(path: Path) -> Iterator[tuple[int, bytes | str]]:
    """The lines of a file with their numbers, without byte-order marks; a string is why a line cannot be read."""
    number = 1
    try:
        with open_bytes(path) as stream:
            _check_encoding(stream)
            while line := stream.readline(MAX_LINE_BYTES + 1):
                if len(line) > MAX_LINE_BYTES:
                    while line and not line.endswith(b"\n"):
                        line = stream.readline(MAX_LINE_BYTES)
                    yield number, f"the line is longer than {MAX_LINE_BYTES:,} bytes"
                else:
                    # Not only at the start: a file joined from several has a mark at each seam.
                    yield number, line.removeprefix(codecs.BOM_UTF8)
                number += 1
    except READ_ERRORS as error:
        yield number, what_is_wrong(error)
