"""What other distributions add to this one, without a change to its tree: CONTRIBUTING.md shows one of each.

They name their objects as entry points, in the groups ``qwenlong.sources``, ``qwenlong.scorers``,
``qwenlong.answer_types`` and ``qwenlong.models``::

    [project.entry-points."qwenlong.sources"]
    letters = "letters.rows:LETTERS"

:func:`entries` finds them without importing anything, :func:`plugged` loads them.
"""

from __future__ import annotations

import functools
import re
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

GROUPS = {
    "sources": "qwenlong_core.data.sources.catalogue:sources",
    "scorers": "qwenlong_core.rewards.published:scorers",
    "answer_types": "qwenlong_core.answer_types:answer_rules",
    "models": "qwenlong_core.auto:families",
}
"""The function that takes a group in. A stage whose code reaches its module counts the group in its fingerprint."""
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


@functools.cache
def entries(group: str, taken: tuple[str, ...] = ()) -> dict[str, EntryPoint]:
    """The entry points of a group by name; nothing is imported.

    Args:
        taken: names that this tree has given already.

    Raises:
        ValueError: a name that is taken, that two distributions give, or that is none.
    """
    found: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=f"qwenlong.{group}"), key=lambda entry: entry.name):
        if not _NAME.fullmatch(entry.name):
            raise _refused(group, entry, "has a name of other signs than letters, digits, '_', '-' and '.'")
        if entry.name in taken:
            raise _refused(group, entry, f"takes a name that qwenlong has already (one of {', '.join(taken)})")
        if other := found.get(entry.name):
            raise _refused(group, entry, f"takes a name that {distribution_of(other)} has already")
        found[entry.name] = entry
    return found


def plugged(group: str, kind: type[Any], taken: tuple[str, ...] = ()) -> dict[str, Any]:
    """The objects of a group by name, imported.

    Args:
        kind: what each must be an instance of.
        taken: names that this tree has given already.

    Raises:
        ValueError: see :func:`entries`; or one cannot be imported, or is something else.
    """
    found = {}
    for name, entry in entries(group, taken).items():
        try:
            found[name] = entry.load()
        except Exception as error:  # whatever the other distribution's code raises
            raise _refused(group, entry, f"cannot be imported ({type(error).__name__}: {error})") from error
        if not isinstance(found[name], kind):
            raise _refused(group, entry, f"is {type(found[name]).__name__}, not {kind.__name__}")
    return found


def refused(group: str, name: str, why: str) -> ValueError:
    """The error for an object of a group that is no use, with the distribution that it comes from."""
    return _refused(group, entries(group)[name], why)


def _refused(group: str, entry: EntryPoint, why: str) -> ValueError:
    return ValueError(
        f"{entry.name} = {entry.value!r} in the entry points qwenlong.{group} of {distribution_of(entry)} {why}: mend "
        "that distribution, or uninstall it"
    )


def distribution_of(entry: EntryPoint) -> str:
    """Name and version of the distribution that an entry point comes from."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown distribution"


def require_plugged() -> dict[str, tuple[str, ...]]:
    """Load all that other distributions add; the names of each group.

    Raises:
        ValueError: something of it cannot be used.
    """
    names = {group: tuple(entries(group)) for group in GROUPS}
    for group, place in GROUPS.items():
        if names[group]:
            module, _, function = place.partition(":")
            getattr(import_module(module), function)()
    return names
