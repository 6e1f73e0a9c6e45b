"""The pipelines, promotions and nights that MLflow knows, the newest first."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME, MLFLOW_RUN_NOTE

from qwenlong.tasks.tracking.client import client_for, run_page
from qwenlong.tasks.tracking.runs import PARENT_TAG
from qwenlong_core.settings.running import TrackingSettings

_SCORE = "/overall"
"""End of the metrics that hold a pipeline's scores."""


class Listed(NamedTuple):
    """One flow run."""

    name: str
    began: datetime
    status: str
    """MLflow's: ``RUNNING``, ``FINISHED``, ``FAILED`` or ``KILLED``."""
    seconds: float | None
    """``None`` while it runs."""
    scores: dict[str, float]
    """Share of right answers, by evaluated stage in the order of training; empty before there are any."""
    outcome: str
    """What the gate or the night decided, or why the run failed; empty while it runs."""
    page: str
    """Its address in MLflow."""


def newest_runs(tracking: TrackingSettings, limit: int) -> list[Listed]:
    """The newest flow runs, without the runs of their stages; none where nothing was tracked yet.

    Raises:
        MlflowException: the tracking server does not answer.
    """
    database = tracking.uri.removeprefix("sqlite:///")
    if database != tracking.uri and not Path(database).is_file():
        return []  # to look must not make one
    client = client_for(tracking)
    experiment = client.get_experiment_by_name(tracking.experiment)
    if experiment is None:
        return []
    found = client.search_runs(
        [experiment.experiment_id],
        f"tags.`{PARENT_TAG}` IS NULL",
        max_results=limit,
        order_by=["attributes.start_time DESC"],
    )
    return [_listed(run, run_page(tracking, experiment.experiment_id, run.info.run_id)) for run in found]


def _listed(run: Run, page: str) -> Listed:
    info, tags, metrics = run.info, run.data.tags, run.data.metrics
    stages = sorted((name.removesuffix(_SCORE) for name in metrics if name.endswith(_SCORE)), key=_in_training)
    return Listed(
        name=tags[MLFLOW_RUN_NAME],
        began=datetime.fromtimestamp(info.start_time / 1000, UTC),
        status=info.status,
        seconds=(info.end_time - info.start_time) / 1000 if info.end_time else None,
        scores={stage: metrics[f"{stage}{_SCORE}"] for stage in stages},
        outcome=tags.get(MLFLOW_RUN_NOTE, "").partition("\n\n")[0],  # a link to Prefect follows
        page=page,
    )


def _in_training(stage: str) -> tuple[bool, bool, int]:
    """Sort key: base, SFT, and the phases by number."""
    return stage != "base", stage != "sft", int(stage.rpartition("-")[2]) if stage.startswith("grpo-") else 0
