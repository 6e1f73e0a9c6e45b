"""Prefect's progress bar of a stage."""

from __future__ import annotations

from typing import Any, cast

from httpx import HTTPError
from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException

from qwenlong.tasks.stage import Progress


def progress_artifact(stage: str) -> Progress:
    """Create the bar; the function returned moves it, given a line of the stage's metrics.

    A line that says nothing of progress renews the bar where it stands.
    """
    about = f"How much of stage {stage} is done"
    artifact_id, share = create_progress_artifact(progress=0.0, key=f"progress-{stage}", description=about), 0.0

    def update(line: dict[str, Any]) -> None:
        nonlocal share
        if line.get("total_steps"):
            share = min(100.0 * line["step"] / line["total_steps"], 100.0)
        try:
            update_progress_artifact(artifact_id=cast(Any, artifact_id), progress=share)
        except (HTTPError, PrefectException) as error:
            # A server that is away for a moment must not end the training: only the bar stands still.
            get_run_logger().warning("progress of %s not shown: %s", stage, error)

    return update
