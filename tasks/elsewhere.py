"""A stage on another work pool: started there, watched, and given up when its process is lost.

The flow run on the pool renews its progress bar every :data:`BEAT_SECONDS`, whatever the stage does. Whoever waits for
it looks at the bar's time: Prefect itself shows a run whose worker was killed as running for ever.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast
from uuid import UUID

from httpx import HTTPError
from prefect import get_client, get_run_logger
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import PrefectException
from prefect.states import Cancelling, Crashed

from qwenlong.tasks.interruptions import Try, taken_up
from qwenlong.tasks.process import ProcessFailed
from qwenlong.tasks.progress import progress_artifact
from qwenlong.tasks.specs import StageSpec
from qwenlong.tasks.stage import Progress, RunContext, TakenUp, stage_fingerprint
from qwenlong_core.store.artifacts import ArtifactRef

BEAT_SECONDS = 20.0
LOST_SECONDS = 90.0
"""A run that has not renewed its bar for so long is lost."""
_POLL_SECONDS = 5.0
_AWAY_SECONDS = 600.0
"""How long Prefect's server may be away while a stage runs elsewhere."""
_TELL_SECONDS = 60.0
_WAITING = {StateType.SCHEDULED, StateType.PENDING, StateType.PAUSED}


@contextmanager
def beating(stage: str) -> Iterator[Progress]:
    """The progress bar of a stage that another process waits for, renewed inside the block."""
    update, stop = progress_artifact(stage), threading.Event()

    def beat() -> None:
        while not stop.wait(BEAT_SECONDS):
            update({})

    # Prefect keeps its settings and the current run in context variables, which a new thread lacks.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(beat,), name="heartbeat", daemon=True)
    thread.start()
    try:
        yield update
    finally:
        stop.set()
        thread.join()


def run_elsewhere(
    deployment: str, spec: StageSpec, inputs: Mapping[str, ArtifactRef], context: RunContext, forced: bool, this: Try
) -> None:
    """Start the deployment with a stage and wait for its end. If this is interrupted, the run there is cancelled.

    Args:
        this: told when the stage began there, and when it was last heard of.

    Raises:
        ProcessFailed: its flow run did not complete, or its process was lost.
    """
    parameters = {
        "spec": spec.model_dump(mode="json"),
        "inputs": {name: ref.model_dump() for name, ref in inputs.items()},
        "context": context.model_dump(mode="json"),
        "forced": forced,
        "fingerprint": stage_fingerprint(spec, inputs),
        "taken_up": taken_up(context).get(spec.name, TakenUp()).model_dump(),
    }
    flow_run: FlowRun = cast(Any, run_deployment(deployment, parameters=parameters, timeout=0))
    try:
        state = _wait(flow_run, f"{spec.name} on {deployment}", this)
    except BaseException as error:
        if not isinstance(error, Exception):
            with get_client(sync_client=True) as client:
                client.set_flow_run_state(flow_run.id, Cancelling(message=f"{spec.name} is no longer waited for"))
        raise
    if not state.is_completed():
        why = f": {state.message}" if state.message else ""
        raise ProcessFailed(f"{spec.name}: flow run {flow_run.name!r} of {deployment} ended {state.name}{why}")


def _wait(flow_run: FlowRun, what: str, this: Try) -> State[Any]:
    """Wait until the flow run has ended; returns its last state."""
    log, seen, heard, told = get_run_logger(), None, time.monotonic(), time.monotonic()
    while True:
        try:
            state, beat = _look(flow_run.id)
        except (HTTPError, PrefectException) as error:
            if (away := time.monotonic() - heard) > _AWAY_SECONDS:
                raise
            log.warning("%s: Prefect has not answered for %.0f s: %s", what, away, error)
            seen = None  # nobody could hear a beat meanwhile
        else:
            if state.is_final():
                this.lives()
                return state
            waits = state.type in _WAITING
            if waits or beat != seen:
                seen, heard = beat, time.monotonic()
                this.waits() if waits else this.lives()
            elif time.monotonic() - heard > LOST_SECONDS:
                _give_up(flow_run, what)
            if waits and time.monotonic() - told > _TELL_SECONDS:
                told = time.monotonic()
                log.info("%s waits for a worker of its pool (%s)", what, state.name)
        time.sleep(_POLL_SECONDS)


def _look(flow_run_id: UUID) -> tuple[State[Any], str]:
    """The state of a flow run, and when it last renewed its bar (empty if it has none yet)."""
    its_own = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]))
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(flow_run_id).state
        bars = client.read_artifacts(artifact_filter=its_own)
    assert state is not None  # a run has one from its creation on
    return state, max((str(bar.updated) for bar in bars), default="")


def _give_up(flow_run: FlowRun, what: str) -> None:
    """Mark a lost run as crashed, which also frees its slot, and let the stage be tried again.

    Raises:
        ProcessFailed: always.
    """
    message = f"nothing was heard from its process for {LOST_SECONDS:.0f} s: its worker was killed, or lost the network"
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run.id, Crashed(message=message), force=True)
    raise ProcessFailed(f"{what}: flow run {flow_run.name!r}: {message}")
