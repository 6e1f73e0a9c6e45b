"""A killed run is closed in a real Prefect server, with the task it was in; runs of others are left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prefect import flow, get_client
from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterName
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.settings import PREFECT_API_URL
from prefect.states import Running
from prefect.testing.utilities import prefect_test_harness

from qwenlong.flows.dead_runs import close_dead_runs, tagged_with_process
from qwenlong.tasks.tracking.client import Tracker
from qwenlong_core.settings.running import TrackingSettings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]

KILLED = """
import os, signal, time
from prefect import flow, task
from qwenlong.flows.dead_runs import tagged_with_process
@task
def stage():
    time.sleep(5)  # Prefect hears of a task a little later
    os.kill(os.getpid(), signal.SIGKILL)
@flow(name="qwenlong")
def pipeline():
    stage()
with tagged_with_process():
    pipeline()
"""


def made(*names: str) -> FlowRun:
    """An open run of the pipeline with these tags."""
    with get_client(sync_client=True) as client:
        return client.create_flow_run(flow(lambda: None, name="qwenlong"), state=Running(), tags=names)


def test_a_killed_run_and_its_task_are_closed_and_no_other(tmp_path: Path) -> None:
    with prefect_test_harness(server_startup_timeout=300):
        done = subprocess.run(
            [sys.executable, "-c", KILLED], env=os.environ | {"PREFECT_API_URL": str(PREFECT_API_URL.value())}
        )
        assert done.returncode == -signal.SIGKILL
        with tagged_with_process() as mine:
            alive = made(*mine)
        elsewhere, untagged = made("qwenlong.host:elsewhere", "qwenlong.pid:1"), made()
        close_dead_runs(Tracker(TrackingSettings(uri=f"sqlite:///{tmp_path}/mlflow.db")))
        with get_client(sync_client=True) as client:
            states = {run.id: run.state_type for run in client.read_flow_runs()}
            left = {run.id for run in (alive, elsewhere, untagged)}
            assert {state for run, state in states.items() if run in left} == {StateType.RUNNING}
            assert [state for run, state in states.items() if run not in left] == [StateType.CRASHED]
            name = TaskRunFilter(name=TaskRunFilterName(like_="stage"))
            [task] = client.read_task_runs(task_run_filter=name)
            assert task.state_type == StateType.CRASHED
