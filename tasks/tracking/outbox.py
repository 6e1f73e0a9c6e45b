"""Runs that MLflow has not got yet wait in the outbox, a folder with one file per run.

While its stage works, a run is opened, filled and closed directly. If MLflow was away, for a moment or all the time,
the whole run is written to the outbox when it ends, and delivered later: by the next stage, by the next pipeline run or
by ``qwenlong sync``.
"""

from __future__ import annotations

import fcntl
import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from pydantic import ValidationError
from requests.exceptions import RequestException

from qwenlong.tasks.tracking.client import Tracker, is_refusal
from qwenlong.tasks.tracking.runs import RunNote, Runs, Status
from qwenlong_core.settings.tree import Settings
from qwenlong_core.store.artifacts import ArtifactRef
from qwenlong_core.store.files import write_whole

logger = logging.getLogger(__name__)


def outbox_of(settings: Settings) -> Path:
    """The outbox of this machine."""
    return Path(settings.storage.runs_dir).absolute().parent / "outbox"


class TrackedRun:
    """A run that is logged to MLflow as it goes; what MLflow did not take goes to the outbox at the end."""

    def __init__(self, tracker: Tracker, note: RunNote, outbox: Path) -> None:
        self.note = note
        self._tracker, self._runs, self._outbox = tracker, Runs(tracker), outbox
        self._run_id: str | None = None
        self._unsent = False

    def run_id(self) -> str | None:
        """The run's id in MLflow; ``None`` while MLflow is away."""
        if self._run_id is None:
            self._run_id = self._tracker.attempt(self._runs.open, self.note)
        return self._run_id

    def send(self, line: Mapping[str, Any]) -> bool:
        """Send one step line; ``True`` once it arrived."""
        run_id = self.run_id()
        sent = run_id is not None and bool(self._tracker.attempt(self._runs.send, run_id, self.note, line))
        # Only the last line counts: the caller sends a line again until it arrives, before it sends the next.
        self._unsent = not sent
        return sent

    def finish(
        self,
        status: Status,
        *,
        lines: tuple[dict[str, Any], ...] = (),
        output: ArtifactRef | None = None,
        texts: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str | None:
        """Close the run.

        Args:
            lines: all its step lines; those that :meth:`send` has delivered are not sent again.

        Returns:
            The run's id, or ``None`` if MLflow never answered. What it did not take waits in the outbox.
        """
        ended = {"status": status, "ended_ms": int(time.time() * 1000), "output": output, "texts": dict(texts or {})}
        note = self.note.model_copy(update={**ended, "lines": lines, "tags": self.note.tags | dict(tags or {})})
        self._tracker.refusal = ""
        run_id = self.run_id()
        if run_id is not None and not self._unsent and self._tracker.attempt(self._runs.finish, run_id, note):
            return run_id
        path = put(self._outbox, note)
        if reason := self._tracker.refusal:
            aside = self._tracker.attempt(_set_aside, self._runs, path, note, reason)
            if aside is not None:
                return run_id
        logger.warning(
            "MLflow does not have all of run %s yet; it is kept in %s, and `qwenlong sync` sends it",
            note.name,
            self._outbox,
        )
        return run_id


def put(outbox: Path, note: RunNote) -> Path:
    """Write a note into the outbox; the names sort by start time."""
    outbox.mkdir(parents=True, exist_ok=True)
    path = outbox / f"{note.started_ms}-{re.sub('[^A-Za-z0-9]', '', note.key)}.json"
    write_whole(path, note.model_dump_json())
    return path


@contextmanager
def _alone(outbox: Path) -> Iterator[bool]:
    """Whether no other process is delivering this outbox."""
    with (outbox / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def refused(outbox: Path) -> list[Path]:
    """The notes that MLflow does not take, the oldest first."""
    return sorted(outbox.glob("*.refused"))


def _set_aside(runs: Runs, path: Path, note: RunNote | None, reason: str) -> Path:
    """Close the run of a note that cannot be delivered, and rename the note to ``.refused``; returns its new place."""
    if note is not None:
        runs.close_refused(note, reason)  # first: if MLflow is away now, the note waits and this is done later
    place = path.rename(path.with_suffix(".refused"))
    name = f"run {note.name!r}" if note else path.name
    logger.error("MLflow refused the note of %s, which is kept in %s; its run is closed: %s", name, place, reason)
    return place


def waiting(outbox: Path) -> list[Path]:
    """The notes that MLflow has not got, the oldest first."""
    return sorted(outbox.glob("*.json"))


def deliver_outbox(tracker: Tracker, outbox: Path) -> int:
    """Deliver the waiting notes, the oldest first, until MLflow is away.

    A note that cannot be read, or that MLflow refuses for its content, is renamed to ``.refused``, so that it does
    not hold up the others, and its run is closed.

    Returns:
        The number of notes delivered.
    """
    if not waiting(outbox):
        return 0
    delivered, runs = 0, Runs(tracker)
    with _alone(outbox) as alone:
        for path in waiting(outbox) if alone else ():
            note: RunNote | None = None
            try:
                try:
                    note = RunNote.model_validate_json(path.read_text())
                    runs.deliver(note)
                except (MlflowException, ValidationError) as error:
                    if isinstance(error, MlflowException) and not is_refusal(error):
                        raise
                    _set_aside(runs, path, note, str(error))
                else:
                    path.unlink()
                    delivered += 1
            except (MlflowException, RequestException) as error:
                logger.warning("MLflow at %s is away, %s waits: %s", tracker.settings.uri, path.name, error)
                break
    return delivered
