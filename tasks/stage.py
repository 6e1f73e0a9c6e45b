"""What every stage does: fetch inputs, run its process, publish the output, remember the result.

:func:`execute_stage` needs no Prefect; :func:`run_stage` is the Prefect task around it. Only a small
:class:`StageOutcome` travels through Prefect, never data or weights.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, cast

from httpx import HTTPError
from prefect import get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.deployments import run_deployment
from prefect.exceptions import PrefectException

from qwenlong.tasks.checkpoints import CheckpointPublisher, Training, restore
from qwenlong.tasks.process import ProcessFailed, StageRefused, run_process, stage_command
from qwenlong.tasks.results import digests_of, publish, remember, write_job
from qwenlong.tasks.specs import StageSpec
from qwenlong.tasks.store import open_store
from qwenlong.tasks.tracking.client import Tracker
from qwenlong.tasks.tracking.metrics import MetricsForwarder, read_lines
from qwenlong.tasks.tracking.outbox import TrackedRun, deliver_outbox, outbox_of
from qwenlong.tasks.tracking.registry import register
from qwenlong.tasks.tracking.runs import RunNote
from qwenlong_core.settings.base import Block
from qwenlong_core.settings.tree import Settings
from qwenlong_core.shipped import own_or_shipped
from qwenlong_core.stage_main import OUTPUT, REFUSED
from qwenlong_core.store.artifacts import ArtifactRef
from qwenlong_core.store.files import METRICS, digest_json
from qwenlong_core.store.fingerprint import code_digest, fingerprint
from qwenlong_core.store.protocol import Store

Log = Callable[[str], None]


class StageOutcome(Block):
    """What a stage leaves behind in Prefect: the reference and how it came about."""

    ref: ArtifactRef
    how: Literal["ran", "adopted"]
    seconds: float
    mlflow_run_id: str | None = None


class RunContext(Block):
    """What every stage of one pipeline run shares."""

    settings: Settings
    run_id: str
    """The pipeline run: key of its MLflow run, to which the stages' runs belong."""


def stage_fingerprint(spec: StageSpec, inputs: Mapping[str, ArtifactRef]) -> str:
    """The digest that decides whether the stage's result is already there."""
    return fingerprint(spec.cached_as, spec.deciding_job, digests_of(inputs), code_digest((spec.module,)))


def launch_options(spec: StageSpec, context: RunContext) -> list[str] | None:
    """Options of ``accelerate launch`` for a training stage, ``None`` for a plain one."""
    if spec.launcher != "accelerate":
        return None
    launch = context.settings.launch
    if launch.accelerate_config:
        return ["--config_file", str(own_or_shipped(launch.accelerate_config)), *_machine(launch.num_machines)]
    options = ["--num_processes", str(launch.num_processes), "--num_machines", str(launch.num_machines)]
    options += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    # accelerate starts several processes, on CPU too (gloo), only when told so by this name.
    return options + (["--multi_gpu"] if launch.num_processes > 1 else [])


def _machine(machines: int) -> list[str]:
    """Which of several machines this is; their job sets the variables, as `torchrun`'s does."""
    if machines == 1:
        return []
    variables = {
        "--machine_rank": "NODE_RANK",
        "--main_process_ip": "MASTER_ADDR",
        "--main_process_port": "MASTER_PORT",
    }
    if missing := [name for name in variables.values() if name not in os.environ]:
        raise StageRefused(
            f"launch.num_machines={machines}, but {', '.join(missing)} is not set: start the stage's worker on every "
            "machine with NODE_RANK, MASTER_ADDR and MASTER_PORT"
        )
    return [part for option, name in variables.items() for part in (option, os.environ[name])]


@contextmanager
def _work_lock(work: Path, log: Log) -> Iterator[int]:
    """Hold a work folder alone. The stage's process inherits the lock, so that a training whose
    pipeline was killed is never joined by a second one on the same checkpoints."""
    work.parent.mkdir(parents=True, exist_ok=True)
    with work.with_suffix(".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log(f"another run is at work in {work}: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def execute_stage(
    spec: StageSpec,
    inputs: Mapping[str, ArtifactRef],
    context: RunContext,
    *,
    forced: bool,
    log: Log,
    progress: Callable[[dict[str, Any]], None],
) -> StageOutcome:
    """Run one stage unless its result is already in the store.

    Args:
        forced: run it even if the result is there, from scratch.
        log: takes every line the stage's process writes.
        progress: takes every line of the stage's ``metrics.jsonl`` as it comes.

    Raises:
        StageRefused: bad settings or data; a retry cannot help.
        ProcessFailed: the process ended with an error that may pass.
    """
    started = time.monotonic()
    store = open_store(context.settings)
    key = stage_fingerprint(spec, inputs)
    name = f"{spec.cached_as}-{key[:16]}" + ("-forced" if forced else "")
    work = Path(context.settings.storage.work_dir).absolute() / name
    with _work_lock(work, log) as lock:
        record = None if forced else store.lookup(spec.cached_as, key)
        if record is not None:
            return StageOutcome(ref=record.ref, how="adopted", seconds=0.0, mlflow_run_id=record.mlflow_run_id)
        tracker, outbox = Tracker(context.settings.tracking), outbox_of(context.settings)
        deliver_outbox(tracker, outbox)
        tags = {"stage": spec.name, "fingerprint": key, "profile": context.settings.profile}
        note = RunNote(name=spec.name, params=spec.job, tags=tags, parent=context.run_id, inputs=dict(inputs))
        tracked, output = TrackedRun(tracker, note, outbox), work / OUTPUT
        try:
            job = write_job(spec, output)
            if spec.launcher == "inline":
                register(context.settings.tracking, inputs, store.manifest(inputs["model"]), output)
            else:
                folders = {name: store.fetch(ref) for name, ref in inputs.items()}
                command = stage_command(spec.module, launch_options(spec, context), job, folders, work)
                tracked.run_id()
                training = _training(spec, inputs, context, key if not forced else f"{key}-{context.run_id}")
                with (
                    (
                        _checkpoints_in_store(work, store, training, log)
                        if spec.launcher == "accelerate"
                        else nullcontext()
                    ),
                    MetricsForwarder(output / METRICS, _forward_to(tracked, progress)),
                ):
                    _run_or_refuse(spec, command, work, lock, log)
            ref = publish(store, spec, inputs, output)
        except BaseException as error:
            tracked.finish("FAILED" if isinstance(error, Exception) else "KILLED", lines=read_lines(output / METRICS))
            raise
        run_id = tracked.finish("FINISHED", lines=read_lines(output / METRICS), output=ref)
        remember(store, spec, key, ref, profile=context.settings.profile, mlflow_run_id=run_id)
        shutil.rmtree(work)
    return StageOutcome(ref=ref, how="ran", seconds=time.monotonic() - started, mlflow_run_id=run_id)


def _training(spec: StageSpec, inputs: Mapping[str, ArtifactRef], context: RunContext, key: str) -> Training:
    return Training(
        stage=spec.name,
        key=key,
        profile=context.settings.profile,
        parents=digests_of(inputs),
        settings_digest=digest_json(spec.job),
        code_digest=code_digest((spec.module,)),
    )


@contextmanager
def _checkpoints_in_store(work: Path, store: Store, training: Training, log: Log) -> Iterator[None]:
    """Go on from the store's newest checkpoint, and send new ones there."""
    restore(work, store, training, log)
    with CheckpointPublisher(work, store, training, log):
        yield


def _run_or_refuse(spec: StageSpec, command: list[str], work: Path, lock: int, log: Log) -> None:
    try:
        run_process(command, log, keep_open=lock)
    except ProcessFailed:
        if (work / REFUSED).is_file():
            raise StageRefused(f"{spec.name}: {(work / REFUSED).read_text()}") from None
        raise


def _forward_to(tracked: TrackedRun, progress: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], bool]:
    def on_line(line: dict[str, Any]) -> bool:
        progress(line)
        return tracked.send(line)

    return on_line


def _can_pass(task: Any, run: TaskRun, state: State[Any]) -> bool:
    """Retry what can pass; a refused setting or bad data fails at once."""
    error = state.result(raise_on_failure=False)
    return not isinstance(error, ValueError | TypeError | AssertionError)


def _cache_key(context: TaskRunContext, parameters: dict[str, Any]) -> str:
    spec: StageSpec = parameters["spec"]
    return f"{spec.name}-{stage_fingerprint(spec, parameters['inputs'])}"


def progress_artifact(stage: str) -> Callable[[dict[str, Any]], None]:
    """Shows a stage's share done in Prefect, updated from its metrics lines."""
    artifact_id = create_progress_artifact(
        progress=0.0, key=f"progress-{stage}", description=f"How much of stage {stage} is done"
    )

    def update(line: dict[str, Any]) -> None:
        if line.get("total_steps"):
            share = 100.0 * line["step"] / line["total_steps"]
            try:
                update_progress_artifact(artifact_id=cast(Any, artifact_id), progress=min(share, 100.0))
            except (HTTPError, PrefectException) as error:
                # A server that is away for a moment costs a picture, not the training.
                get_run_logger().warning("progress of %s not shown: %s", stage, error)

    return update


@task(persist_result=True, result_serializer="json", cache_key_fn=_cache_key, retry_condition_fn=_can_pass)
def run_stage(spec: StageSpec, inputs: dict[str, ArtifactRef], context: RunContext, forced: bool) -> StageOutcome:
    """Run one stage here, or on the deployment that the settings name for it."""
    logger = get_run_logger()
    deployment = cast(dict[str, str], context.settings.execution.deployments).get(spec.family)
    if deployment is None:
        update = progress_artifact(spec.name)
        outcome = execute_stage(spec, inputs, context, forced=forced, log=logger.info, progress=update)
        update({"step": 1, "total_steps": 1})
        return outcome
    logger.info("%s runs on deployment %s", spec.name, deployment)
    parameters = {
        "spec": spec.model_dump(mode="json"),
        "inputs": {name: ref.model_dump() for name, ref in inputs.items()},
        "context": context.model_dump(mode="json"),
        "forced": forced,
    }
    started = time.monotonic()
    flow_run = cast(Any, run_deployment(deployment, parameters=parameters))
    if not flow_run.state.is_completed():
        raise ProcessFailed(f"{spec.name}: flow run {flow_run.name!r} of {deployment} ended {flow_run.state.name}")
    record = open_store(context.settings).lookup(spec.cached_as, stage_fingerprint(spec, inputs))
    if record is None:
        raise ProcessFailed(
            f"{spec.name}: {deployment} completed but its artifact is not in"
            f" storage.uri={context.settings.storage.uri!r}: both sides must share the store and the code"
        )
    return StageOutcome(
        ref=record.ref, how="ran", seconds=time.monotonic() - started, mlflow_run_id=record.mlflow_run_id
    )
