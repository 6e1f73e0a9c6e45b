"""Small charts as inline SVG, without scripts or fonts; the colours are those of the page's light or dark palette.

Every chart is 340 units wide, so its text is equally large in the single column of a phone and in the grid of a desktop
page. Each carries its numbers as text for screen readers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 10, 12, 30
_LETTER = 6.5
"""Approximate width of a letter of the small text."""
_NAME = 11
"""Letters of a name that fit beside a row."""
_COLOURS = 5
"""The page's style sheet defines the classes ``c0`` to ``c4``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Whisker:
    """A point with its interval, if it has one."""

    label: str
    mean: float
    low: float | None
    high: float | None

    @property
    def text(self) -> str:
        """``0.25 [0.10, 0.42]``."""
        return f"{self.mean:.2f}" + ("" if self.low is None else f" [{self.low:.2f}, {self.high:.2f}]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One line of a chart: points ``(x, y)``, or points with intervals over categories."""

    name: str
    points: Sequence[tuple[float, float]] = ()
    whiskers: Sequence[Whisker] = ()


def _svg(body: Sequence[str], label: str, height: float = _HEIGHT) -> Markup:
    head = f'<svg viewBox="0 0 {_WIDTH} {height:g}" role="img" aria-label="{escape(label)}">'
    return Markup(head + "".join(body) + "</svg>")


def _text(x: float, y: float, text: str, anchor: str = "middle", style: str = "tick") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{style}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{style}"/>'


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About ``count`` round numbers that span ``low`` to ``high``, in steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    # The small terms keep a bound that is round already from moving by a step through rounding.
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def _label(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


class _Axes:
    """Linear axes over the panel's plotting area."""

    def __init__(self, xs: tuple[float, float], ticks: Sequence[float]) -> None:
        self.x_low, self.x_high = xs
        self.ticks = ticks

    def x(self, value: float) -> float:
        share = (value - self.x_low) / ((self.x_high - self.x_low) or 1)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def grid(self) -> list[str]:
        parts = []
        for tick in self.ticks:
            parts.append(_line(_LEFT, self.y(tick), _WIDTH - _RIGHT, self.y(tick), "grid"))
            parts.append(_text(_LEFT - 5, self.y(tick) + 4, _label(tick), "end"))
        return parts


def _dot(x: float, y: float, colour: int) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" class="dot c{colour % _COLOURS}"/>'


def _curve(axes: _Axes, series: Series, colour: int) -> list[str]:
    places = [(axes.x(x), axes.y(y)) for x, y in series.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = [_dot(x, y, colour) for x, y in places] if len(places) <= 30 else []  # more would hide the line
    return [f'<polyline points="{path}" class="curve c{colour % _COLOURS}"/>', *dots]


def line_chart(title: str, series: Sequence[Series], marks: Sequence[tuple[float, str]] = ()) -> Markup:
    """Lines over steps. ``marks`` are ``(x, name)`` of stages that begin there."""
    points = [point for one in series for point in one.points]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    axes = _Axes((min(xs), max(xs)), nice_ticks(min(ys), max(ys)))
    body = axes.grid()
    for x, name in marks:
        body.append(_line(axes.x(x), _TOP, axes.x(x), _HEIGHT - _BOTTOM, "mark"))
        at, past = axes.x(x), axes.x(x) + _LETTER * len(name) > _WIDTH
        body.append(_text(at - 3 if past else at + 3, _HEIGHT - 17, name, "end" if past else "start"))
    body.append(_text(_LEFT, _HEIGHT - 3, f"step {min(xs):g}", "start"))
    body.append(_text(_WIDTH - _RIGHT, _HEIGHT - 3, f"{max(xs):g}", "end"))
    for colour, one in enumerate(series):
        body += _curve(axes, one, colour)
    ends = "; ".join(f"{one.name} from {one.points[0][1]:.3g} to {one.points[-1][1]:.3g}" for one in series)
    return _svg(body, f"{title}: {ends}")


def category_chart(title: str, series: Sequence[Series], categories: Sequence[str]) -> Markup:
    """Points with intervals over categories, on a scale from 0 to 1; several series side by side."""
    axes = _Axes((-0.5, len(categories) - 0.5), [0, 0.25, 0.5, 0.75, 1.0])
    body = axes.grid()
    # Many labels take two rows, or they would overlap.
    crowded = len(categories) > 4
    body += [
        _text(axes.x(place), _HEIGHT - (3 if crowded and place % 2 else 16), name)
        for place, name in enumerate(categories)
    ]
    spread = 0.14
    for colour, one in enumerate(series):
        for whisker in one.whiskers:
            place = categories.index(whisker.label) + (colour - (len(series) - 1) / 2) * spread
            x = axes.x(place)
            if whisker.low is not None and whisker.high is not None:
                body.append(_line(x, axes.y(whisker.low), x, axes.y(whisker.high), f"whisker c{colour % _COLOURS}"))
            body.append(_dot(x, axes.y(whisker.mean), colour))
    words = "; ".join(f"{one.name}: " + ", ".join(f"{i.label} {i.text}" for i in one.whiskers) for one in series)
    return _svg(body, f"{title}. {words}")


def _shortened(name: str) -> str:
    """The part of a name that fits beside a row. The tables and the chart's text have the whole name."""
    return name if len(name) <= _NAME else name[: _NAME - 1] + "…"


def forest_chart(title: str, whiskers: Sequence[Whisker]) -> Markup:
    """One row per stage: a point with its interval on a scale from 0 to 1."""
    row, left = 24, 78
    height = _TOP + row * len(whiskers) + _BOTTOM
    body = []

    def x(value: float) -> float:
        return left + value * (_WIDTH - left - _RIGHT - 4)

    for tick in (0, 0.25, 0.5, 0.75, 1.0):
        body.append(_line(x(tick), _TOP, x(tick), height - _BOTTOM, "grid"))
        body.append(_text(x(tick), height - 12, f"{tick:g}"))
    for index, whisker in enumerate(whiskers):
        y = _TOP + row * (index + 0.5)
        body.append(_text(left - 8, y + 4, _shortened(whisker.label), "end", "name"))
        colour = 0 if index == 0 else 1  # the first stage is what the others are compared with
        if whisker.low is not None and whisker.high is not None:
            body.append(_line(x(whisker.low), y, x(whisker.high), y, f"whisker c{colour}"))
        body.append(_dot(x(whisker.mean), y, colour))
    words = ", ".join(f"{whisker.label} {whisker.text}" for whisker in whiskers)
    return _svg(body, f"{title}: {words}", height)


def stacked_chart(title: str, moments: Sequence[str], areas: Mapping[str, Sequence[float]], limit: float) -> Markup:
    """Areas over moments, one on the other, under a line at ``limit``; each area has a value a moment."""
    tops = [sum(values[place] for values in areas.values()) for place in range(len(moments))]
    axes = _Axes((0, len(moments) - 1), nice_ticks(0, max(limit, *tops)))
    below, body = [0.0] * len(moments), axes.grid()
    for colour, values in enumerate(areas.values()):
        above = [low + value for low, value in zip(below, values, strict=True)]
        corners = [*enumerate(above), *reversed(list(enumerate(below)))]
        path = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in corners)
        body.append(f'<polygon points="{path}" class="area c{colour % _COLOURS}"/>')
        below = above
    body.append(_line(_LEFT, axes.y(limit), _WIDTH - _RIGHT, axes.y(limit), "mark"))
    for place, name in enumerate(moments):
        anchor = "start" if place == 0 else "end" if place == len(moments) - 1 else "middle"
        body.append(_text(axes.x(place), _HEIGHT - (3 if place % 2 else 16), name, anchor))
    words = ", ".join(f"{name} {top:.1f}" for name, top in zip(moments, tops))
    return _svg(body, f"{title}: {words}; limit {limit:.1f}")
