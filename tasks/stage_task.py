"""The Prefect task of a stage: cached, retried, and run here or on another work pool.

Only a small :class:`StageOutcome` travels through Prefect, never data or weights.
"""

from __future__ import annotations

import time
from typing import Any, cast

from prefect import get_run_logger, task
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext

from qwenlong.tasks.elsewhere import run_elsewhere
from qwenlong.tasks.events import StageEvent, tell
from qwenlong.tasks.interruptions import Interruption, Try, note, taken_up
from qwenlong.tasks.notice import send
from qwenlong.tasks.process import ProcessFailed
from qwenlong.tasks.progress import curves_artifact, progress_artifact
from qwenlong.tasks.specs import StageSpec
from qwenlong.tasks.stage import RunContext, StageOutcome, TakenUp, execute_stage, stage_fingerprint
from qwenlong.tasks.store import open_store
from qwenlong_core.store.artifacts import ArtifactRef


def _can_pass(task: Any, run: TaskRun, state: State[Any]) -> bool:
    """Whether to retry: an outage or a killed worker may pass, a refused setting or bad data does not."""
    error = state.result(raise_on_failure=False)
    return not isinstance(error, ValueError | TypeError | AssertionError)


def _cache_key(context: TaskRunContext, parameters: dict[str, Any]) -> str:
    spec: StageSpec = parameters["spec"]
    return f"{spec.name}-{stage_fingerprint(spec, parameters['inputs'])}"


@task(persist_result=True, result_serializer="json", cache_key_fn=_cache_key, retry_condition_fn=_can_pass)
def run_stage(spec: StageSpec, inputs: dict[str, ArtifactRef], context: RunContext, forced: bool) -> StageOutcome:
    """Run one stage here, or on the deployment that the settings name for its family."""
    this = Try()
    try:
        return _made(spec, inputs, context, forced, this)
    except (ProcessFailed, ConnectionError) as error:
        _tell_of_retry(spec, context, note(spec, inputs, context, forced, this, error))
        raise


def _made(
    spec: StageSpec, inputs: dict[str, ArtifactRef], context: RunContext, forced: bool, this: Try
) -> StageOutcome:
    logger = get_run_logger()
    deployments = cast(dict[str, str], context.settings.execution.deployments)
    if deployment := deployments.get(spec.family):
        logger.info("%s runs on deployment %s", spec.name, deployment)
        return _result_of(deployment, spec, inputs, context, forced, this)
    update, draw = progress_artifact(spec.name), curves_artifact(spec.name, context.settings)

    def progress(line: dict[str, Any]) -> None:
        tell(StageEvent(stage=spec.name, what="step", line=line))
        update(line)
        draw(line)

    before = taken_up(context).get(spec.name, TakenUp())
    outcome = execute_stage(spec, inputs, context, forced=forced, log=logger.info, progress=progress, taken_up=before)
    update({"step": 1, "total_steps": 1})
    return outcome


def _tell_of_retry(spec: StageSpec, context: RunContext, lost: Interruption) -> None:
    """Tell people of a server that is away, or a process that died, while the stage is tried again for them.

    The last failure ends the run, which tells by itself.
    """
    running = TaskRunContext.get()
    execution = context.settings.execution
    left = execution.retries + 1 - running.task_run.run_count if running else 0
    if left > 0:
        again = f"tried again in {execution.retry_delay_seconds:g} s; {left} of {execution.retries} retries are left"
        so_far = taken_up(context).get(spec.name, TakenUp())
        sums = f"In this run it has been stopped {so_far.times} times, at {so_far.lost_minutes:.1f} minutes of work"
        send(
            context.settings.notify.to,
            f"qwenlong: {spec.name} of {context.run_id} stopped",
            f"{lost.reason}\n\nAbout {lost}. It is {again}. {sums}.",
        )


def _result_of(
    deployment: str, spec: StageSpec, inputs: dict[str, ArtifactRef], context: RunContext, forced: bool, this: Try
) -> StageOutcome:
    """Run the stage on a deployment, and look its result up in the store that both sides share.

    Raises:
        ProcessFailed: it did not complete there, or left no result under the stage's fingerprint.
    """
    started = time.monotonic()
    run_elsewhere(deployment, spec, inputs, context, forced, this)
    record = open_store(context.settings).lookup(spec.cached_as, stage_fingerprint(spec, inputs))
    if record is None:
        raise ProcessFailed(
            f"{spec.name}: {deployment} completed, but its artifact is not in"
            f" storage.uri={context.settings.storage.uri!r}: both sides must share the store and the code"
        )
    seconds = time.monotonic() - started
    return StageOutcome(ref=record.ref, how="ran", seconds=seconds, mlflow_run_id=record.mlflow_run_id)
