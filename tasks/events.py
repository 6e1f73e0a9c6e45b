"""What happens to the stages of a run while it goes on, for whoever watches.

Events are records of one logger, so the flow knows nothing of its watchers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

_LOGGER = logging.getLogger("qwenlong.stages")
_LOGGER.setLevel(logging.INFO)
_LOGGER.propagate = False  # they are for watchers, not for the log
_LOGGER.addHandler(logging.NullHandler())


@dataclass(frozen=True, kw_only=True, slots=True)
class StageEvent:
    """One stage has started, has done a step, or has ended."""

    stage: str
    what: Literal["started", "step", "ended"]
    line: Mapping[str, Any] = field(default_factory=dict)
    """Of a step: its line of ``metrics.jsonl``."""
    how: str = ""
    """Of the end: ``ran``, ``cached`` or ``kept``."""


def tell(event: StageEvent) -> None:
    """Hand an event to whoever watches."""
    _LOGGER.info("%s %s", event.stage, event.what, extra={"event": event})


class _Handler(logging.Handler):
    def __init__(self, on_event: Callable[[StageEvent], None]) -> None:
        super().__init__()
        self.on_event = on_event

    def emit(self, record: logging.LogRecord) -> None:
        self.on_event(record.__dict__["event"])


@contextmanager
def watching(on_event: Callable[[StageEvent], None]) -> Iterator[None]:
    """Call ``on_event`` with every event inside the block; it may be called from several threads, one at a time."""
    handler = _Handler(on_event)
    _LOGGER.addHandler(handler)
    try:
        yield
    finally:
        _LOGGER.removeHandler(handler)
