"""The checks that a row of any source must pass to become an example."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from dataclasses import asdict, dataclass
from typing import Any

from qwenlong_core.data.sources.golds import as_text, listed
from qwenlong_core.records import DOMAINS, Example
from qwenlong_core.rewards.rules import check_gold

_MAX_CHARACTERS = 20_000_000
"""Longest document read: about forty times the largest phase. Anything longer is a broken file."""

_ID_DIGITS = 24
"""Hexadecimal digits of an id made from content: 96 bits, by which a trillion rows do not meet."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that could not be read."""

    file: str
    line: int
    """Line or row number, counted from 1."""
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class BadRow(ValueError):
    """Raised for a row that is refused; the message is the reason."""


def text_field(row: dict[str, Any], key: str) -> str:
    """The text under ``key``.

    Raises:
        BadRow: it is missing, not a string, blank, or cannot be stored.
    """
    value = row.get(key)
    if key not in row:
        raise BadRow(f"no {key!r}")
    if not isinstance(value, str):
        raise BadRow(f"{key!r} is {type(value).__name__}, not a string")
    if not value.strip():
        raise BadRow(f"{key!r} is empty")
    check_text(value, key)
    return value


def check_text(value: str, key: str) -> None:
    """Refuse texts that hold NUL bytes or lone surrogates or are too long.

    Raises:
        BadRow: with the reason.
    """
    if "\x00" in value:
        raise BadRow(f"{key!r} holds a NUL byte")
    if len(value) > _MAX_CHARACTERS:
        raise BadRow(f"{key!r} has {len(value):,} characters, more than {_MAX_CHARACTERS:,}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRow(f"{key!r} is not valid Unicode: {error.reason}") from error


def texts(value: Any, key: str) -> tuple[str, ...]:
    """A non-empty list of answers or options, each as text; see :mod:`~.golds` for lists in text, numbers, booleans.

    Raises:
        BadRow: the list is empty, or an entry is blank, NaN or neither a text nor a number.
    """
    if isinstance(value, dict) or value is None:
        raise BadRow(f"{key!r} is not a non-empty list of texts")
    try:
        entries = [(item, as_text(item)) for item in listed(value)]
    except ValueError as error:
        raise BadRow(f"{key!r} holds {error}") from error
    if not entries:
        raise BadRow(f"{key!r} is not a non-empty list of texts")
    out = []
    for item, text in entries:
        if text is None:
            raise BadRow(f"{key!r} holds {type(item).__name__}, not a text")
        if not text or text.lower() == "nan":
            raise BadRow(f"{key!r} holds an empty or NaN answer")
        check_text(text, key)
        out.append(text)
    return tuple(out)


def row_id(row: dict[str, Any], *keys: str) -> str:
    """The row's id under the first of these keys that has one; without one, a digest of the row's content.

    The digest does not change with the row's place, and two rows share it only if they are equal.
    """
    for key in keys:
        value = row.get(key)
        if isinstance(value, str) and value.strip():
            return text_field(row, key)
        if isinstance(value, float) and value.is_integer():  # pandas stores ids as floats where one is missing
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if value is not None and not isinstance(value, str) and value == value:  # NaN is no id
            raise BadRow(f"{key!r} is {type(value).__name__}, not a string")
    content = json.dumps(row, sort_keys=True, ensure_ascii=True, default=repr)
    return hashlib.sha256(content.encode()).hexdigest()[:_ID_DIGITS]


def half_width(text: str) -> str:
    """The text with full-width letters, digits and signs as ASCII: ``(B)`` for ``（Ｂ）``."""
    return unicodedata.normalize("NFKC", text)


def domain_field(row: dict[str, Any]) -> Any:
    """The row's domain.

    Raises:
        BadRow: it is missing, or not one of :data:`~qwenlong_core.records.DOMAINS`.
    """
    domain = text_field(row, "domain")
    if domain not in DOMAINS:
        raise BadRow(f"'domain' is {domain!r}, not one of {', '.join(DOMAINS)}")
    return domain


def check_choice(answers: tuple[str, ...], choices: tuple[str, ...]) -> tuple[str, ...]:
    """The gold letter of a multiple-choice row.

    Raises:
        BadRow: it is not one letter of the options.
    """
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(choices)]
    answer = half_width(answers[0]).strip("() .。")
    if len(answers) != 1 or answer not in tuple(letters):
        raise BadRow(f"gold {list(answers)} is not one letter of the {len(choices)} choices ({', '.join(letters)})")
    return (answer,)


def checked(example: Example) -> Example:
    """The example, if its gold answer fits its answer type and the reward's rule can read it.

    Raises:
        BadRow: the gold says both yes and no, there are fewer than two options, or a number is not a number.
    """
    if example.answer_type == "choice" and len(example.choices) < 2:
        raise BadRow(f"a choice row needs at least two 'choices', got {len(example.choices)}")
    if example.answer_type == "yes_no" and len({a.strip(" .").lower() for a in example.answers}) != 1:
        raise BadRow(f"gold {list(example.answers)} says both yes and no")
    try:
        check_gold(example)
    except ValueError as error:
        raise BadRow(f"unusable gold: {error}") from error
    return example
