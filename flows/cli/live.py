"""The live view of ``qwenlong run`` in a terminal: every stage with its state and times, and its newest step."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from prefect.logging.handlers import PrefectConsoleHandler
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from qwenlong.flows.cli.common import console
from qwenlong.tasks.curves import clock, sparkline
from qwenlong.tasks.events import StageEvent, watching

_CURVES = ("reward", "accuracy", "loss")
"""The first of them that a stage's lines have is drawn."""
_STYLES = {"running": "bold", "waiting": "dim", "cached": "green", "kept": "green", "done": "green"}


@dataclass
class _Stage:
    state: str = "waiting"
    started: float = 0.0
    seconds: float = 0.0
    first: float | None = None
    """When its first line came: what came before it is start-up, and no step."""
    lines: list[dict[str, Any]] = field(default_factory=list)

    def left(self, now: float) -> float | None:
        """Seconds left by the pace of its steps; ``None`` before the second one."""
        if self.first is None or len(self.lines) < 2:
            return None
        done = self.lines[-1]["step"] - self.lines[0]["step"]
        pace = (self.lines[-1]["at"] - self.first) / done if done > 0 else 0.0
        last = self.lines[-1]
        left: float = pace * (last["total_steps"] - last["step"]) - (now - last["at"])
        return max(0.0, left)

    def words(self) -> str:
        """The newest line: step, reward, kept groups, and the curve so far."""
        if not self.lines:
            return ""
        line = self.lines[-1]
        parts = [f"{line['step']}/{line['total_steps']}"]
        name = next((name for name in _CURVES if line.get(name) is not None), None)
        if name:
            parts.append(f"{name} {line[name]:.2f}")
        if "groups_kept" in line:
            parts.append(f"kept {line['groups_kept']}/{line['groups_drawn']} groups")
        if name:
            parts.append(sparkline([each[name] for each in self.lines if each.get(name) is not None]))
        return "  ".join(parts)


class LiveView:
    """A table that follows the events of a run; rich draws it anew several times a second.

    Args:
        names: The stages in the order in which they run. A stage that is not among them is added when it starts.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.stages = {name: _Stage() for name in names}
        self.begun = time.monotonic()

    def on_event(self, event: StageEvent) -> None:
        """Take in what happened."""
        now, stage = time.monotonic(), self.stages.setdefault(event.stage, _Stage())
        if event.what == "started":
            stage.state, stage.started = "running", now
        elif event.what == "ended":
            stage.state, stage.seconds = {"ran": "done"}.get(event.how, event.how), now - stage.started
        elif event.line.get("total_steps"):
            stage.first = now if stage.first is None else stage.first
            stage.lines.append({**event.line, "at": now})

    def __rich__(self) -> Table:
        now = time.monotonic()
        table = Table(title=f"qwenlong run, {clock(now - self.begun)}", title_justify="left", expand=False)
        for name, justify in (("stage", "left"), ("state", "left"), ("time", "right"), ("left", "right")):
            table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        table.add_column("step", no_wrap=True, overflow="ellipsis")
        for name, stage in self.stages.items():
            running = stage.state == "running"
            spent = clock(now - stage.started if running else stage.seconds) if stage.state != "waiting" else ""
            left = stage.left(now) if running else None
            cells = (name, stage.state, spent, "" if left is None else clock(left), stage.words())
            table.add_row(*map(Text, cells), style=_STYLES.get(stage.state))
        return table


@contextmanager
def live_view(names: Sequence[str]) -> Iterator[None]:
    """Show the stages on stderr while the block runs; warnings of the log are printed above them, other lines not."""
    view, out = LiveView(names), console(width=140, stderr=True)
    with Live(view, console=out, refresh_per_second=2), watching(view.on_event), _warnings_only(out):
        yield


@contextmanager
def _warnings_only(console: Console) -> Iterator[None]:
    handlers = {h for h in _handlers() if isinstance(h, PrefectConsoleHandler)}
    before = [(handler, handler.level, handler.console) for handler in handlers]
    for handler in handlers:
        handler.setLevel(max(handler.level, logging.WARNING))
        handler.console = console
    try:
        yield
    finally:
        for handler, level, own in before:
            handler.setLevel(level)
            handler.console = own


def _handlers() -> Iterator[logging.Handler]:
    for logger in logging.Logger.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            yield from logger.handlers


def can_show() -> bool:
    """Whether stderr is a terminal."""
    return sys.stderr.isatty()
