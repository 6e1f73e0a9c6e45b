"""Where an artifact came from, as a picture: one row per artifact, lines from each to what it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

_ROW, _LANE, _EDGE = 42, 16, 14
_WIDTH, _COLOURS = 340, 5
_LETTER = {"name": 6.6, "tick": 5.8}
"""Approximate width of a letter, by class of the style sheet."""
_RADIUS = 4.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """An artifact and what it was made from."""

    name: str
    """What people call it: a stage, or a registry version."""
    kind: str
    sha256: str
    parents: Mapping[str, str] = field(default_factory=dict)
    """Digest of every input, by the name of the input."""
    note: str = ""
    """When it was made, or that it is missing."""


def newest_first(origins: Sequence[Origin]) -> list[Origin]:
    """The artifacts in an order in which each stands above everything that it was made from.

    Where that leaves a choice, the order of ``origins`` counts from its end, so give the oldest first.

    Raises:
        ValueError: two are made from each other.
    """
    by_digest = {one.sha256: one for one in origins}
    waiting = {one.sha256: 0 for one in by_digest.values()}
    for one in by_digest.values():
        for parent in set(one.parents.values()) & by_digest.keys():
            waiting[parent] += 1
    order: list[Origin] = []
    left = list(by_digest.values())
    while left:
        ready = next((one for one in reversed(left) if waiting[one.sha256] == 0), None)
        if ready is None:
            raise ValueError(f"{left[0].kind}/{left[0].sha256[:12]} was made from itself: its manifest is damaged")
        left.remove(ready)
        order.append(ready)
        for parent in set(ready.parents.values()) & by_digest.keys():
            waiting[parent] -= 1
    return order


@dataclass(frozen=True, slots=True)
class _Line:
    """From an artifact's row to the lane of one that it was made from, and down that lane to the row of that one."""

    start: tuple[int, int]
    lane: int
    end: int


def _lay_out(order: Sequence[Origin]) -> tuple[list[int], list[_Line]]:
    """The lane of every row, and the lines. A lane is held from the first row that asks for an artifact to its own."""
    rows = {one.sha256: row for row, one in enumerate(order)}
    held: list[str | None] = []
    places: list[int] = []
    lines: list[_Line] = []

    def lane_of(digest: str) -> int:
        lane = next((n for n, one in enumerate(held) if one == digest), None)
        if lane is None:
            lane = next((n for n, one in enumerate(held) if one is None), len(held))
            held[lane : lane + 1] = [digest]
        return lane

    for row, one in enumerate(order):
        place = lane_of(one.sha256)
        held[place] = None
        places.append(place)
        for parent in dict.fromkeys(digest for digest in one.parents.values() if digest in rows):
            lines.append(_Line((row, place), lane_of(parent), rows[parent]))
    return places, lines


def _path(line: _Line) -> str:
    (row, place), x = line.start, _x(line.lane)
    top, bottom = _y(row), _y(line.end)
    if place == line.lane:
        return f"M{x} {top}V{bottom}"
    turn = top + _ROW * 0.7
    return f"M{_x(place)} {top}C{_x(place)} {turn:g} {x} {top + 6:g} {x} {turn:g}V{bottom}"


def _x(lane: int) -> int:
    return _EDGE + _LANE * lane


def _y(row: int) -> int:
    return _ROW * row + _ROW // 2


def _text(x: int, y: int, style: str, text: str) -> str:
    fits = int((_WIDTH - x) / _LETTER[style])
    shown = text if len(text) <= fits else f"{text[: fits - 1]}…"
    return f'<text x="{x}" y="{y}" class="{style}">{escape(shown)}</text>'


def lineage_picture(origins: Sequence[Origin]) -> Markup:
    """The picture as SVG, from the newest artifact at the top to the data at the bottom.

    Args:
        origins: Each artifact once, the oldest first. A parent that is not among them has no line.
    """
    order = newest_first(origins)
    places, lines = _lay_out(order)
    text = _EDGE + _LANE * (max((line.lane for line in lines), default=0) + 1)
    body = [f'<path d="{_path(line)}" class="lane c{line.lane % _COLOURS}"/>' for line in lines]
    for row, (one, place) in enumerate(zip(order, places)):
        title = f"{one.kind}/{one.sha256}" + "".join(f"\n{name}: {digest}" for name, digest in one.parents.items())
        dot = f'<circle cx="{_x(place)}" cy="{_y(row)}" r="{_RADIUS}" class="dot c{place % _COLOURS}"/>'
        words = _text(text, _y(row) - 2, "name", one.name)
        words += _text(text, _y(row) + 13, "tick", f"{one.kind}/{one.sha256[:12]}{one.note and ', ' + one.note}")
        body.append(f"<g><title>{escape(title)}</title>{dot}{words}</g>")
    names = {one.sha256: one.name for one in order}
    spoken = "; ".join(_spoken(one, names) for one in order)
    head = f'<svg viewBox="0 0 {_WIDTH} {_ROW * len(order)}" role="img" aria-label="{escape(spoken)}" class="lineage">'
    return Markup(head + "".join(body) + "</svg>")


def _spoken(one: Origin, names: Mapping[str, str]) -> str:
    parents = ", ".join(names.get(digest, digest[:12]) for digest in one.parents.values())
    return f"{one.name}, {one.kind}/{one.sha256[:12]}" + (f", made from {parents}" if parents else "")
