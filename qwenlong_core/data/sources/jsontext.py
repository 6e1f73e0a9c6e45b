"""Decode JSON without losing anything in silence: values after the first, keys given twice, integers of any length."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any

_CHUNK_CHARACTERS = 2**20
_MAX_DIGITS = 4_000
"""Integers with more digits stay text: Python does not convert more than 4,300 (CVE-2020-10735)."""
_SPACE = " \t\r\n"


class RepeatedKey(ValueError):
    """An object that gives one key two different values."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    whole = dict(pairs)
    if len(whole) != len(pairs):
        for key, value in pairs:
            if value != whole[key]:
                raise RepeatedKey(f"an object has two different values under {key[:80]!r}")
    return whole


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= _MAX_DIGITS else digits


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer)
_LENIENT = json.JSONDecoder(parse_int=_integer)


def decode(text: str) -> Any:
    """The JSON value in the text, or why there is none, as a :class:`Bad`."""
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        return Bad(f"not valid JSON: {error.msg} at column {error.colno}")
    except RepeatedKey as error:
        return Bad(str(error))
    except RecursionError:
        return Bad("not valid JSON: nested too deeply")


class Bad(str):
    """In place of a value: why it cannot be read."""

    __slots__ = ()


class JsonText:
    """JSON values one after the other, from a text that need not fit into memory."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._buffer, self._position = "", 0

    def rows(self) -> Iterator[Any]:
        """The values of the text; of a list, its elements. After a :class:`Bad` value there may be no other."""
        try:
            while character := self._next():
                if character == "[":
                    yield from self._elements()
                else:
                    yield from _rows_of(self._value())
        except json.JSONDecodeError as error:
            yield Bad(f"not valid JSON from here on: {error.msg}")
        except RecursionError:
            yield Bad("not valid JSON from here on: nested too deeply")

    def _elements(self) -> Iterator[Any]:
        """The elements of the list that starts here."""
        self._position += 1
        while (character := self._next()) != "]":
            if character == ",":
                self._position += 1
            else:
                yield self._value()
        self._position += 1

    def _next(self) -> str:
        """The next character that is no space; empty at the end of the text."""
        while True:
            while self._position < len(self._buffer) and self._buffer[self._position] in _SPACE:
                self._position += 1
            if self._position < len(self._buffer):
                return self._buffer[self._position]
            if not self._read_more():
                return ""

    def _value(self) -> Any:
        while True:
            try:
                value, end = self._decoded()
            except json.JSONDecodeError:
                # It may just be incomplete.
                if not self._read_more():
                    raise
                continue
            if end == len(self._buffer) and self._read_more():
                continue  # a number that ended with the buffer may go on after it
            self._position = end
            return value

    def _decoded(self) -> tuple[Any, int]:
        try:
            return _DECODER.raw_decode(self._buffer, self._position)
        except RepeatedKey as error:
            return Bad(str(error)), _LENIENT.raw_decode(self._buffer, self._position)[1]

    def _read_more(self) -> bool:
        """Read on; whether there was anything. Doubling the buffer keeps the total work linear."""
        more = self._stream.read(max(_CHUNK_CHARACTERS, len(self._buffer) - self._position))
        if more:
            self._buffer, self._position = self._buffer[self._position :] + more, 0
        return bool(more)


def _rows_of(whole: Any) -> Iterator[Any]:
    """The rows of a value that is no list: an object keyed by id, one with a list under ``data``, or one row."""
    if isinstance(whole, dict) and isinstance(whole.get("data"), list):
        yield from whole["data"]
        others = [key for key, value in whole.items() if key != "data" and _is_rows(value)]
        if others:
            yield Bad(f"rows under {', '.join(map(repr, others))} beside 'data': give each list a file of its own")
    elif isinstance(whole, dict) and whole and all(isinstance(value, dict) for value in whole.values()):
        yield from ({"id": key, **value} for key, value in whole.items())
    else:
        yield whole


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)
