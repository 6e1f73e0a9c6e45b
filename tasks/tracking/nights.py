"""Results of the nightly evaluation: kept in the store by date, and shown in MLflow as one series."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import Field

from qwenlong.tasks.tracking.client import Tracker
from qwenlong.tasks.tracking.outbox import TrackedRun, outbox_of
from qwenlong.tasks.tracking.runs import RunNote
from qwenlong_core.evaluation.average import AVERAGE
from qwenlong_core.evaluation.results import Evaluation, read_evaluation
from qwenlong_core.promotion.regression import Change, comparable, unscored_share
from qwenlong_core.settings.base import Block
from qwenlong_core.settings.tree import Settings
from qwenlong_core.store.artifacts import ArtifactError, ArtifactRef, describe, now
from qwenlong_core.store.files import digest_json
from qwenlong_core.store.protocol import StageRecord, Store

FAMILY = "night"
_FILE = "night.json"


class Night(Block):
    """The result of one night. A second run in the same night returns it."""

    night: date
    profile: str
    evaluations: dict[str, ArtifactRef]
    """By alias: ``champion``, and ``challenger`` where it was another model."""
    compared_with: tuple[date, ...]
    """The earlier nights that the champion was compared with."""
    falls: tuple[str, ...]
    """What fell significantly under both seeds, in words. If there is anything, the night failed."""
    unconfirmed: tuple[str, ...] = ()
    """What fell under the first seed only."""
    series: tuple[date, ...] = ()
    """All earlier nights of the same model on the same rows."""
    p_values: dict[str, float] = Field(default_factory=dict)
    """By benchmark: how probable a night as bad as this one is among those of its series."""
    drifts: tuple[str, ...] = ()
    """What has fallen over the series, in words. If there is anything, the night failed."""

    @property
    def failed(self) -> bool:
        """Whether the champion got worse, tonight or over the series."""
        return bool(self.falls or self.drifts)

    @property
    def words(self) -> str:
        """The night's result in one sentence."""
        compared = f"compared with {len(self.compared_with)} earlier nights"
        if self.failed:
            fell = f", {compared}, under both seeds: {'; '.join(self.falls)}" if self.falls else ""
            over = f", over {len(self.series) + 1} nights: {'; '.join(self.drifts)}" if self.drifts else ""
            return f"night {self.night}: the champion got worse{fell}{over}"
        once = f"; under one of two seeds {'; '.join(self.unconfirmed)}" if self.unconfirmed else ""
        return f"night {self.night}: no significant fall, {compared}{once}"


def tonight() -> date:
    """Today's date in UTC, as the schedule counts."""
    return datetime.now(UTC).date()


def _key(settings: Settings, night: date) -> str:
    return digest_json([settings.tracking.registered_model, settings.profile, str(night)])


def find_night(store: Store, settings: Settings, night: date) -> Night | None:
    """The result of a night, or ``None`` if it has not finished."""
    record = store.lookup(FAMILY, _key(settings, night))
    return Night.model_validate_json((store.fetch(record.ref) / _FILE).read_text()) if record else None


def earlier_nights(store: Store, settings: Settings, night: date) -> Iterator[tuple[date, Evaluation]]:
    """The champion's evaluations of earlier nights that are still in the store, the newest first."""
    for back in range(1, settings.nightly.nights + 1):
        found = find_night(store, settings, night - timedelta(days=back))
        if found is not None:
            try:
                yield found.night, read_evaluation(store.fetch(found.evaluations["champion"]))
            except ArtifactError:
                continue  # `gc` has deleted it since; the other nights are enough to compare with


def series_of(store: Store, settings: Settings, night: date, tonight: Evaluation) -> list[tuple[Night, Evaluation]]:
    """All earlier nights of tonight's model on tonight's rows that are still in the store, the oldest first.

    The newest one names those before it. A champion, data or protocol that changed since begins a new series.
    """
    newest = next((day for day, _ in earlier_nights(store, settings, night)), None)
    last = find_night(store, settings, newest) if newest else None
    found = []
    for day in (*last.series, last.night) if last else ():
        earlier = find_night(store, settings, day)
        if earlier is None:
            continue
        try:
            evaluation = read_evaluation(store.fetch(earlier.evaluations["champion"]))
        except ArtifactError:
            continue  # deleted by `gc`, as above
        if comparable(tonight, evaluation) and evaluation.plan.model_digest == tonight.plan.model_digest:
            found.append((earlier, evaluation))
    return found


def remember_night(store: Store, settings: Settings, night: Night, mlflow_run_id: str | None) -> ArtifactRef:
    """Publish a night's result under its date."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / _FILE).write_text(night.model_dump_json(indent=1))
        parents = {alias: ref.sha256 for alias, ref in night.evaluations.items()}
        manifest = describe(
            Path(folder),
            FAMILY,
            parents=parents,
            settings_digest=digest_json(settings.nightly.model_dump()),
            code_digest="",
        )
        ref = store.publish(Path(folder), manifest)
    store.record(
        StageRecord(
            stage=FAMILY,
            fingerprint=_key(settings, night.night),
            ref=ref,
            profile=settings.profile,
            settings=settings.nightly.model_dump(),
            created_at=now(),
            mlflow_run_id=mlflow_run_id,
        )
    )
    return ref


def log_night(
    tracker: Tracker, settings: Settings, night: date, evaluations: dict[str, Evaluation], changes: list[Change]
) -> None:
    """Add a night to the MLflow run ``nightly PROFILE``, whose curves have one point a night.

    The step is the number of days since 1970. All nights share one key, so the first night opens the run and the others
    add to it, also when one waits in the outbox until MLflow is back.
    """
    name, tags = f"nightly {settings.profile}", {"series": "nightly", "profile": settings.profile}
    series = TrackedRun(tracker, RunNote(key=name, name=name, params={}, tags=tags), outbox_of(settings))
    line = {"step": (night - date(1970, 1, 1)).days, "time": time.time()} | night_values(evaluations, changes)
    series.send(line)
    series.finish("FINISHED", lines=(line,))


def night_values(evaluations: dict[str, Evaluation], changes: list[Change]) -> dict[str, float]:
    """The points of one night by the name of their curve."""
    values: dict[str, float] = {}
    for alias, evaluation in evaluations.items():
        scores = evaluation.scores
        if scores.average is not None and scores.average.accuracy is not None:
            values[f"{alias}/{AVERAGE}"] = scores.average.accuracy.mean
        parts = {"overall": scores.overall} | scores.domains | scores.sources
        # No point on the curve where the judge was down for all answers: a 0 would be a false one.
        values |= {f"{alias}/{name}": part.accuracy.mean for name, part in parts.items() if not part.is_undecided}
        values[f"{alias}/unscored share"] = unscored_share(evaluation)
    for change in changes:
        values |= {f"champion/change/{change.name}": change.mean, f"champion/change p/{change.name}": change.p}
    return {name: float(value) for name, value in values.items()}


def overview(night: Night, evaluations: dict[str, Evaluation]) -> dict[str, Any]:
    """What the flow ``nightly`` returns: JSON-ready."""
    scores = {alias: evaluation.scores.overall.accuracy.mean for alias, evaluation in evaluations.items()}
    averages = {
        alias: average.accuracy.mean if average.accuracy else average.words
        for alias, evaluation in evaluations.items()
        if (average := evaluation.scores.average)
    }
    return {"night": str(night.night), "scores": scores, "result": night.words} | (
        {AVERAGE: averages} if averages else {}
    )
