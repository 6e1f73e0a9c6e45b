"""What every stage does: fetch inputs, run its process, publish the output, remember the result.

Nothing here needs Prefect; ``tasks/stage_task.py`` holds the Prefect task around :func:`execute_stage`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qwenlong.tasks.checkpoints import CheckpointPublisher, Training, drop_finished, restore
from qwenlong.tasks.judge import judge_asked_by, served
from qwenlong.tasks.launch import launch_options, needs_launcher
from qwenlong.tasks.locks import one_at_a_time
from qwenlong.tasks.process import run_or_refuse, stage_command
from qwenlong.tasks.results import digests_of, publish, remember, write_job
from qwenlong.tasks.specs import StageSpec
from qwenlong.tasks.store import open_store
from qwenlong.tasks.tracking.client import Tracker
from qwenlong.tasks.tracking.metrics import MetricsForwarder, read_lines
from qwenlong.tasks.tracking.mirrors import mirrored
from qwenlong.tasks.tracking.outbox import TrackedRun, deliver_outbox, outbox_of
from qwenlong.tasks.tracking.registry import register
from qwenlong.tasks.tracking.runs import RunNote, Status
from qwenlong_core.settings.base import Block
from qwenlong_core.settings.tree import Settings
from qwenlong_core.stage_main import OUTPUT
from qwenlong_core.store.artifacts import ArtifactRef
from qwenlong_core.store.files import METRICS, digest_json
from qwenlong_core.store.fingerprint import fingerprint
from qwenlong_core.store.protocol import Store

Log = Callable[[str], None]
Progress = Callable[[dict[str, Any]], None]


class StageOutcome(Block):
    """What a stage leaves behind in Prefect: the reference and how it came about. Never data or weights."""

    ref: ArtifactRef
    how: Literal["ran", "adopted"]
    """``adopted``: the result was in the store already."""
    seconds: float
    mlflow_run_id: str | None = None


class RunContext(Block):
    """What every stage of one pipeline run shares."""

    settings: Settings
    run_id: str
    """The pipeline run: key of its MLflow run, to which the stages' runs belong."""


class TakenUp(Block):
    """How often a stage was taken up again in its pipeline run after a fault, and what was lost by that."""

    times: int = 0
    lost_minutes: float = 0.0
    """Of work; see :mod:`qwenlong.tasks.interruptions`."""

    def tags(self) -> dict[str, str]:
        """For the stage's run in MLflow; none where nothing went wrong."""
        return {"taken_up_again": str(self.times), "lost_minutes": f"{self.lost_minutes:.2f}"} if self.times else {}


@dataclass(frozen=True, kw_only=True)
class _Execution:
    """One try at a stage: what it is given, and where it works."""

    spec: StageSpec
    inputs: Mapping[str, ArtifactRef]
    context: RunContext
    store: Store
    key: str
    """The stage's fingerprint."""
    forced: bool
    work: Path
    """Holds the output, checkpoints and logs until the result is published."""
    log: Log
    progress: Progress
    taken_up: TakenUp

    @property
    def output(self) -> Path:
        return self.work / OUTPUT


def stage_fingerprint(spec: StageSpec, inputs: Mapping[str, ArtifactRef]) -> str:
    """The digest that decides whether the stage's result is already there."""
    return fingerprint(spec.cached_as, spec.deciding_job, digests_of(inputs), spec.code)


def execute_stage(
    spec: StageSpec,
    inputs: Mapping[str, ArtifactRef],
    context: RunContext,
    *,
    forced: bool,
    log: Log,
    progress: Progress,
    taken_up: TakenUp = TakenUp(),  # noqa: B008 - frozen
) -> StageOutcome:
    """Run one stage unless its result is already in the store.

    Args:
        forced: run it from scratch even if the result is there.
        log: takes every line the stage's process writes.
        progress: takes every line of the stage's ``metrics.jsonl`` as it comes.
        taken_up: what earlier tries at it in this pipeline run came to, for MLflow.

    Raises:
        StageRefused: bad settings or data; a retry cannot help.
        ProcessFailed: the process ended with an error that a retry may mend.
    """
    started = time.monotonic()
    store, key = open_store(context.settings), stage_fingerprint(spec, inputs)
    # The fingerprint in the name lets a retry resume from what an interrupted try of the same work left there.
    name = f"{spec.cached_as}-{key[:16]}" + ("-forced" if forced else "")
    work = Path(context.settings.storage.work_dir).absolute() / name
    execution = _Execution(
        spec=spec, inputs=inputs, context=context, store=store, key=key, forced=forced,
        work=work, log=log, progress=progress, taken_up=taken_up,
    )  # fmt: skip

    def waiting() -> None:
        log(f"another run is using {work}: waiting for it to end")

    # The stage's process inherits the lock. If the pipeline is killed but the training lives on, a second training
    # therefore waits for it instead of writing to the same checkpoints.
    with one_at_a_time(work.with_suffix(".lock"), waiting) as lock:
        # Looked up under the lock: a run that held it may have just finished this stage.
        record = None if forced else store.lookup(spec.cached_as, key)
        if record is not None:
            _tidy(execution)  # its run may have been killed before it did
            return StageOutcome(ref=record.ref, how="adopted", seconds=0.0, mlflow_run_id=record.mlflow_run_id)
        ref, mlflow_run_id = _run_tracked(execution, lock)
        remember(store, spec, key, ref, profile=context.settings.profile, mlflow_run_id=mlflow_run_id)
        _tidy(execution)
    return StageOutcome(ref=ref, how="ran", seconds=time.monotonic() - started, mlflow_run_id=mlflow_run_id)


def _tidy(execution: _Execution) -> None:
    """Delete what a finished stage needs no more: its work folder, and its checkpoints in the store."""
    if execution.work.exists():
        if _trains(execution.spec) and not execution.context.settings.storage.keep_checkpoints:
            drop_finished(execution.store, _training(execution), execution.log)
        shutil.rmtree(execution.work)


def _run_tracked(execution: _Execution, lock: int) -> tuple[ArtifactRef, str | None]:
    """Compute and publish the result inside an MLflow run; returns the artifact and the run's id, if MLflow has it."""
    spec, output, context = execution.spec, execution.output, execution.context
    tracker, outbox = Tracker(context.settings.tracking), outbox_of(context.settings)
    deliver_outbox(tracker, outbox)
    tags = {"stage": spec.name, "fingerprint": execution.key, "profile": context.settings.profile}
    tags |= execution.taken_up.tags()
    inputs = dict(execution.inputs)
    note = RunNote(name=spec.name, params=spec.job, tags=tags, parent=context.run_id, inputs=inputs)
    tracked = TrackedRun(tracker, note, outbox)
    try:
        _compute(execution, tracked, lock)
        ref = publish(execution.store, spec, execution.inputs, output)
    except BaseException as error:
        # Ctrl-C and a cancelled task are no Exception: MLflow shows those runs as killed, the others as failed.
        status: Status = "FAILED" if isinstance(error, Exception) else "KILLED"
        tracked.finish(status, lines=read_lines(output / METRICS))
        raise
    run_id = tracked.finish("FINISHED", lines=read_lines(output / METRICS), output=ref)
    if run_id is not None:
        tracker.attempt(tracker.close_superseded, execution.key, run_id)
    return ref, run_id


def _compute(execution: _Execution, tracked: TrackedRun, lock: int) -> None:
    """Leave the stage's result in its output folder."""
    spec, store = execution.spec, execution.store
    job = write_job(spec, execution.output)
    if spec.launcher == "inline":
        settings = execution.context.settings
        register(settings.tracking, execution.inputs, store.manifest(execution.inputs["model"]), execution.output)
        return
    trains = _trains(spec)
    folders = {name: store.fetch(ref) for name, ref in execution.inputs.items()}
    settings = execution.context.settings
    launch = settings.launch
    options, across = (launch_options(launch), launch.across) if trains and needs_launcher(launch) else (None, ())
    judge = judge_asked_by(spec.family, settings)
    judge_log = Path(settings.storage.runs_dir).absolute() / execution.context.run_id / f"judge-{spec.name}.log"
    tracked.run_id()  # opens the run now, so that it is seen before the first step is done
    with (
        served(judge, launch, judge_log, execution.log) as service,
        _checkpoints_in_store(execution) if trains else nullcontext(),
        mirrored(settings, execution.context.run_id, spec.name, execution.log) as mirror,
        MetricsForwarder(execution.output / METRICS, _forward_to(tracked, execution.progress, mirror)),
    ):
        where = service.url if service else None
        command = stage_command(
            spec.module, options, job, folders, execution.work, python=spec.python, judge=where, across=across
        )
        held = (lock, service.lifeline) if service else (lock,)
        silent = settings.execution.silent_minutes
        run_or_refuse(command, spec.name, execution.work, execution.log, *held, silent_minutes=silent)


def _trains(spec: StageSpec) -> bool:
    return spec.launcher == "accelerate"


def training_of(spec: StageSpec, inputs: Mapping[str, ArtifactRef], context: RunContext, forced: bool) -> Training:
    """The training that a stage is, by which the store knows its checkpoints."""
    key = stage_fingerprint(spec, inputs)
    return Training(
        stage=spec.name,
        # A forced stage starts from scratch, but its own retries resume: they share the pipeline run.
        key=f"{key}-{context.run_id}" if forced else key,
        profile=context.settings.profile,
        parents=digests_of(inputs),
        settings_digest=digest_json(spec.job),
        code_digest=spec.code,
    )


def _training(execution: _Execution) -> Training:
    return training_of(execution.spec, execution.inputs, execution.context, execution.forced)


@contextmanager
def _checkpoints_in_store(execution: _Execution) -> Iterator[None]:
    """Resume from the store's newest checkpoint, and send new ones there."""
    training = _training(execution)
    restore(execution.work, execution.store, training, execution.log)
    with CheckpointPublisher(execution.work, execution.store, training, execution.log):
        yield


def _forward_to(tracked: TrackedRun, progress: Progress, mirror: Progress) -> Callable[[dict[str, Any]], bool]:
    def on_line(line: dict[str, Any]) -> bool:
        progress(line)
        mirror(line)
        return tracked.send(line)

    return on_line
