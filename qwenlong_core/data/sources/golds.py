"""Gold answers and options as people write them: lists in text, numbers of any type, booleans."""

from __future__ import annotations

import ast
import json
import math
import re
from decimal import Decimal
from typing import Any

_MAX_LIST = 100_000
"""Longest text that is tried as a list: a hundred times the longest answer that a rule reads."""
_LIST = re.compile(r"\[(?:.*[,'\"].*|\s*[-+.\d][-+.\deE\s]*|\s*)\]", re.DOTALL)
"""A text in brackets that holds a comma, a quote or a number; ``[sic]`` is an answer."""
_OTHER_LIST = re.compile(
    r"""[({]\s*['"].*['"]\s*,?\s*[)}]|(?:np\.|pd\.)?(?:array|list|set|tuple|Series|Index)\(.*\)""", re.DOTALL
)
"""Tuples and sets of quoted texts, and lists inside a call. Without quotes, ``(1,234)`` is a loss."""
_JOINED = re.compile(r"""['"]\s+['"]""")
"""Two quoted texts without a comma: how numpy prints a list, and what Python joins to one text."""


def listed(value: Any) -> list[Any]:
    """The entries of a list; a list written as text, and one inside a list, becomes its entries.

    Raises:
        ValueError: the text looks like a list, but its entries cannot be told apart, or may not all be right.
    """
    if not isinstance(value, list | tuple):
        value = [value]
    entries: list[Any] = []
    for item in value:
        inner = _in_text(item) if isinstance(item, str) else None
        entries += [item] if inner is None else inner
    return entries


def _in_text(text: str) -> list[Any] | None:
    """The entries of a list written as text; ``None`` if the text is not one."""
    text = text.strip()
    if len(text) > _MAX_LIST or not (_LIST.fullmatch(text) or _OTHER_LIST.fullmatch(text)):
        return None
    inner = _parsed(text)
    if inner is None:
        raise ValueError(
            f"{text[:60]!r} looks like a list written as text, but is neither JSON nor Python: write a list of texts"
        )
    if len(inner) > 1 and not all(isinstance(item, str) for item in inner):
        raise ValueError(
            f"{text[:60]!r} is a list of several numbers written as text: write a JSON list if each of them is a right"
            " answer, or name them in words if only all together are"
        )
    return inner


def _parsed(text: str) -> list[Any] | None:
    try:
        inner = json.loads(text)
    except (ValueError, RecursionError):
        if _JOINED.search(text):
            return None
        try:
            inner = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
    if isinstance(inner, set):
        return sorted(inner, key=str)
    return list(inner) if isinstance(inner, list | tuple) else None


def as_text(item: Any) -> str | None:
    """An entry as text: numbers in digits without an exponent, booleans as yes or no; ``None`` for another type.

    Raises:
        ValueError: the number is not finite.
    """
    if isinstance(item, bool):
        return "Yes" if item else "No"
    if isinstance(item, int | str):
        return str(item).strip()
    if isinstance(item, float | Decimal):
        if not math.isfinite(item):
            raise ValueError(str(item))
        return format(item if isinstance(item, Decimal) else Decimal(repr(item)), "f")
    return None
