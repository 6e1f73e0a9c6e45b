"""How often a stage was taken up again within a pipeline run, and the work that was lost each time.

A try that a fault ends is noted in ``interruptions.jsonl`` of the run's folder, by the machine that runs the flow: it
outlives the worker. What is lost is the time since the newest checkpoint that the store has of that try, or since the
try began. A stage without checkpoints that keeps what it has done, such as an evaluation, loses less on one machine.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from qwenlong.tasks.checkpoints import STORE_FAILED, stored_checkpoints
from qwenlong.tasks.process import reason_of
from qwenlong.tasks.specs import StageSpec
from qwenlong.tasks.stage import RunContext, TakenUp, training_of
from qwenlong.tasks.store import open_store
from qwenlong_core.settings.base import Block
from qwenlong_core.store.artifacts import ArtifactRef

logger = logging.getLogger(__name__)

FILE = "interruptions.jsonl"
"""In the folder of a pipeline run; one line for each try that a fault ended."""


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Try:
    """One try at a stage, as whoever waits for it sees it."""

    began: datetime = field(default_factory=_now)
    heard: datetime | None = None
    """When its worker last gave a sign of life; ``None`` for a stage of this machine, which ends when it ends."""

    def waits(self) -> None:
        """It has no worker yet."""
        self.began = self.heard = _now()

    def lives(self) -> None:
        """Its worker has given a sign of life."""
        self.heard = _now()


class Interruption(Block):
    """A try that a fault ended."""

    stage: str
    at: str
    """ISO 8601: the end of the work, as far as it was heard of."""
    reason: str
    since: str
    """What the next try goes on from, in words."""
    lost_seconds: float

    def __str__(self) -> str:
        return f"{self.lost_seconds / 60:.1f} minutes of its work are lost, those since {self.since}"


def note(
    spec: StageSpec, inputs: Mapping[str, ArtifactRef], context: RunContext, forced: bool, this: Try, error: Exception
) -> Interruption:
    """Write down that a fault has ended this try. If the run's folder cannot be written, the log says so."""
    end, begin, since = this.heard or _now(), this.began, "this try began"
    for step, published in _checkpoints(spec, inputs, context, forced):
        if published >= begin:
            begin, since = published, f"the checkpoint of step {step}"
    lost = max(0.0, (end - begin).total_seconds())
    found = Interruption(
        stage=spec.name, at=end.isoformat(timespec="seconds"), reason=reason_of(error), since=since, lost_seconds=lost
    )
    try:
        path = _file(context)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as lines:
            lines.write(found.model_dump_json() + "\n")
    except OSError as trouble:  # such as a full disk, which may be the fault itself
        logger.warning("not counted in %s (%s): %s: %s", FILE, trouble.strerror, spec.name, found)
    return found


def taken_up(context: RunContext) -> dict[str, TakenUp]:
    """The stages of a pipeline run that a fault has ended, with how often they were and what was lost."""
    path, found = _file(context), dict[str, TakenUp]()
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        one = Interruption.model_validate_json(line)
        before = found.get(one.stage, TakenUp())
        found[one.stage] = TakenUp(
            times=before.times + 1, lost_minutes=round(before.lost_minutes + one.lost_seconds / 60, 2)
        )
    return found


def told_of_interruptions(report: StageSpec, context: RunContext) -> StageSpec:
    """The report's stage, which shows how often each stage was taken up again; that alone makes no new report."""
    found = taken_up(context)
    times = {stage: one.times for stage, one in found.items()}
    lost = {stage: one.lost_minutes for stage, one in found.items()}
    return report.model_copy(update={"job": report.job | {"taken_up": times, "lost_minutes": lost}})


def _file(context: RunContext) -> Path:
    return Path(context.settings.storage.runs_dir).absolute() / context.run_id / FILE


def _checkpoints(
    spec: StageSpec, inputs: Mapping[str, ArtifactRef], context: RunContext, forced: bool
) -> list[tuple[int, datetime]]:
    """Step and time of the checkpoints in the store, the oldest first; none if the store is away."""
    try:
        found = stored_checkpoints(open_store(context.settings), training_of(spec, inputs, context, forced))
    except STORE_FAILED as error:
        logger.warning("%s: its checkpoints in the store are not known: %s", spec.name, reason_of(error))
        return []
    return [(int(one.settings["step"]), datetime.fromisoformat(one.created_at)) for one in reversed(found)]
