"""Accuracy as DocMath-Eval's own scorer computes it (``utils/evaluation_utils.py``: ``normalize``, ``get_acc``).

It is lenient, and some of its leniency is a hole: it drops percent signs, scale words and currencies, accepts any power
of ten between the two numbers, and a lost sign. It serves comparison with published numbers and is never a reward. The
original runs ``eval`` on the answer; here only arithmetic on numbers is worked out, with bounded size.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Sequence

_TOLERANCE = 0.0015
_DROPPED_WORDS = ("£", "€", "¥", "million", "billion", "thousand", "US", "USD", "RMB")
_DROPPED_SIGNS = str.maketrans("", "", "`%$°")
_NUMBER = r"[-+]?[\d,]*\.*\d+"
_UNITS = (
    re.compile(rf"(?P<number>{_NUMBER}) [^0-9 ]+"),
    re.compile(rf"[^0-9 ]+ (?P<number>{_NUMBER})"),
    re.compile(rf"(?P<number>{_NUMBER})\D{{1,2}}"),
    re.compile(r"[^-+\d]{1,2}(?P<number>[\d,]*\.*\d+)"),
)
"""A unit after or before the number, apart from it or joined to it."""
_PLAIN = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})*|\d+)(?:\.\d+)?")
_OPTION = re.compile(r"\([a-d]\)")
_MAX_CHARS = 200
_LARGEST = 1e150
"""Above it the original overflows, which counts as wrong."""
_OPERATORS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}


def docmath_accuracy(prediction: str, golds: Sequence[str]) -> float:
    """1.0 if DocMath-Eval's scorer accepts the answer for one of the golds, which must be plain numbers."""
    said = _value(_normalized(prediction))
    return float(any(_accepted(said, float(gold.replace(",", ""))) for gold in golds))


def _normalized(text: str) -> str:
    """The answer without words and signs around its number."""
    text = text.strip().rstrip(".")
    for word in _DROPPED_WORDS:
        text = text.replace(word, "")
    text = text.rpartition("=")[2].strip() if "=" in text else text
    text = text.rpartition("≈")[2].strip() if "≈" in text else text
    text = text.translate(_DROPPED_SIGNS)
    if text in ("true", "yes") or "True" in text:
        return "True"
    if text in ("false", "no") or "False" in text:
        return "False"
    if "approximately" in text:
        text = text.replace("approximately", "").strip()
    text = text.partition(" or ")[0]
    for unit in _UNITS:
        if match := unit.fullmatch(text):
            text = match["number"]
    text = re.sub(r"10\^(-?\d+)", r"1e\1", text).replace(" x ", "*").replace(" × ", "*")
    return text.replace(",", "") if _PLAIN.fullmatch(text) else text


def _value(text: str) -> float | None:
    """The number that the text works out to; ``None`` if it is something else, and 0 if it is nothing at all."""
    if _OPTION.search(text):
        return None
    try:
        tree = ast.parse(text.strip(), mode="eval").body if len(text) <= _MAX_CHARS else None
        if isinstance(tree, ast.Tuple | ast.List | ast.Set) or isinstance(getattr(tree, "value", None), str):
            return None
        return _worked_out(tree)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return 0.0  # so does the original with what it cannot read


def _worked_out(node: ast.AST | None) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        return float(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_worked_out(node.left), _worked_out(node.right))
    if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_worked_out(node.operand))
    raise ValueError("no arithmetic on numbers")


def _accepted(said: float | None, gold: float) -> bool:
    if said is None or max(abs(said), abs(gold)) > _LARGEST:
        return False
    larger, smaller = max(abs(gold), abs(said)), min(abs(gold), abs(said))
    if smaller > 1 / _LARGEST:
        power = math.log10(larger / smaller)
        if int(power) == power:
            return True
    for scale in (100, 1_000, 100_000):
        if smaller <= larger / (scale / 2) and _within(smaller * scale, larger):
            return True
    return math.ceil(larger * 1_000) == math.ceil(smaller * 1_000) or _within(said, gold)


def _within(said: float, gold: float) -> bool:
    return abs(said - gold) <= abs(gold) * _TOLERANCE
