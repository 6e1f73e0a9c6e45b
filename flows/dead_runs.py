"""Runs whose process was killed: MLflow and Prefect go on to show them as running, until a later run corrects that."""

from __future__ import annotations

import contextlib
import os
import socket
from contextlib import AbstractContextManager
from uuid import UUID

from prefect import get_client, tags
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from qwenlong.tasks.tracking.client import Tracker, has_ended

_FLOW = "qwenlong"
_PID = "qwenlong.pid:"
_OPEN = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
_ENDED = [StateType.FAILED, StateType.CRASHED, StateType.CANCELLED]
_KILLED = "its process was killed"


def _host() -> str:
    return f"qwenlong.host:{socket.gethostname()}"


def tagged_with_process() -> AbstractContextManager[set[str]]:
    """Inside the block, flow runs carry this host and process as tags, from the moment they are made."""
    return tags(_host(), f"{_PID}{os.getpid()}")


def close_dead_runs(tracker: Tracker) -> None:
    """Mark runs whose process was killed as such, in MLflow and in Prefect, with Prefect's runs of their tasks."""
    with get_client(sync_client=True) as client:
        for flow_run_id in {*map(UUID, tracker.close_orphans()), *_dead_flow_runs(client)}:
            # The run may have used another Prefect server, which this one cannot close.
            with contextlib.suppress(ObjectNotFound):
                client.set_flow_run_state(flow_run_id, Crashed(message=_KILLED), force=True)
        _close_tasks(client)


def _dead_flow_runs(client: SyncPrefectClient) -> list[UUID]:
    """Flow runs that were started by hand on this host; a worker watches the others."""
    state = FlowRunFilterState(type=FlowRunFilterStateType(any_=_OPEN))
    ours = FlowRunFilter(state=state, tags=FlowRunFilterTags(all_=[_host()]))
    found = client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=[_FLOW])), flow_run_filter=ours)
    return [run.id for run in found if _is_dead(run)]


def _is_dead(run: FlowRun) -> bool:
    pids = [int(tag.removeprefix(_PID)) for tag in run.tags if tag.startswith(_PID)]
    return bool(pids) and run.created is not None and has_ended(pids[0], run.created.timestamp())


def _close_tasks(client: SyncPrefectClient) -> None:
    """Mark the open task runs of ended flow runs: nobody else tells Prefect of their end."""
    ended = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_ENDED)))
    still_open = TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=_OPEN)))
    flows = FlowFilter(name=FlowFilterName(any_=[_FLOW]))
    for task in client.read_task_runs(flow_filter=flows, flow_run_filter=ended, task_run_filter=still_open):
        client.set_task_run_state(task.id, Crashed(message=_KILLED), force=True)
