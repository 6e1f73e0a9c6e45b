"""What Prefect's and MLflow's pages show of a flow run: one name in both, and links between the two."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from prefect import get_client
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run
from prefect.settings import PREFECT_UI_URL

from qwenlong.flows.pipeline_run import PipelineRun
from qwenlong.tasks.process import reason_of
from qwenlong.tasks.tracking.client import Tracker
from qwenlong.tasks.tracking.outbox import TrackedRun, deliver_outbox, outbox_of
from qwenlong.tasks.tracking.runs import RunNote


def name_flow_run(title: str) -> None:
    """Set the name of the current flow run in Prefect."""
    with get_client(sync_client=True) as client:
        client.update_flow_run(UUID(flow_run.id), name=title)


def flow_run_tag() -> dict[str, str]:
    """The tag that links an MLflow run to the current flow run."""
    return {"prefect.flow_run_id": str(flow_run.id)}


def flow_run_page() -> str:
    """Address of the current flow run in Prefect."""
    return f"{PREFECT_UI_URL.value()}/runs/flow-run/{flow_run.id}"


def mlflow_description(text: str, note: str = "") -> dict[str, str]:
    """The tag that MLflow shows as a run's description: ``text``, then ``note`` and a link to the flow run.

    They make two paragraphs, because MLflow folds away a third.
    """
    return {MLFLOW_RUN_NOTE: f"{text}\n\n{note}[This run in Prefect]({flow_run_page()})"}


def show_report(path: Path, mlflow_page: str | None) -> None:
    """Say on the flow run's page where its report is: in MLflow, and on which machine's disk."""
    in_mlflow = f"- [the run in MLflow]({mlflow_page}) has it under Artifacts as `{path.name}`\n" if mlflow_page else ""
    place = f"- `{path}` on `{socket.gethostname()}`\n"
    create_markdown_artifact(key="report", description="Where the report is", markdown=in_mlflow + place)


@contextmanager
def in_mlflow(run: PipelineRun, note: RunNote) -> Iterator[TrackedRun]:
    """Open the MLflow run of a flow run, the parent of its stages' runs.

    Call ``finish`` on it with the result after the block. An error inside the block finishes it as failed.

    Raises:
        ValueError: MLflow's server turns this user away.
    """
    tracker, outbox = Tracker(run.settings.tracking), outbox_of(run.settings)
    deliver_outbox(tracker, outbox)
    tracked = TrackedRun(tracker, note, outbox)
    tracked.run_id()  # creates the run now, so that MLflow shows it from the start
    tracker.require_access()
    try:
        yield tracked
    except Exception as error:
        reason = reason_of(error)
        tracked.finish("FAILED", tags=run.cached_tags() | {"error": reason} | mlflow_description(f"Failed: {reason}"))
        raise
    except BaseException:
        tracked.finish("KILLED", tags=run.cached_tags())
        raise
