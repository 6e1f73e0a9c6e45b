"""How a flow run stands on Prefect's and MLflow's pages: under one name, with its own MLflow run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from prefect import get_client
from prefect.runtime import flow_run
from prefect.settings import PREFECT_UI_URL

from qwenlong.flows.pipeline_run import PipelineRun
from qwenlong.tasks.process import reason_of
from qwenlong.tasks.tracking.client import Tracker
from qwenlong.tasks.tracking.outbox import TrackedRun, deliver_outbox, outbox_of
from qwenlong.tasks.tracking.runs import RunNote


def entitle(title: str) -> None:
    """Name the current flow run on Prefect's pages."""
    with get_client(sync_client=True) as client:
        client.update_flow_run(UUID(flow_run.id), name=title)


def flow_run_tag() -> dict[str, str]:
    """The tag by which an MLflow run leads to its Prefect run."""
    return {"prefect.flow_run_id": str(flow_run.id)}


def flow_run_page() -> str:
    """Where a person opens the current flow run in Prefect."""
    return f"{PREFECT_UI_URL.value()}/runs/flow-run/{flow_run.id}"


def described(text: str, note: str = "") -> dict[str, str]:
    """The tag that MLflow shows as a run's description, with the way to the flow run; it folds a third paragraph away."""
    return {MLFLOW_RUN_NOTE: f"{text}\n\n{note}[This run in Prefect]({flow_run_page()})"}


@contextmanager
def in_mlflow(run: PipelineRun, note: RunNote) -> Iterator[TrackedRun]:
    """Open the MLflow run to which the stages of ``run`` belong.

    Whoever leaves the block well closes it with what came out; an error closes it as failed.
    """
    tracker, outbox = Tracker(run.settings.tracking), outbox_of(run.settings)
    deliver_outbox(tracker, outbox)
    tracked = TrackedRun(tracker, note, outbox)
    tracked.run_id()
    try:
        yield tracked
    except Exception as error:
        reason = reason_of(error)
        tracked.finish("FAILED", tags=run.cached_tags() | {"error": reason} | described(f"Failed: {reason}"))
        raise
    except BaseException:
        tracked.finish("KILLED", tags=run.cached_tags())
        raise
