"""What Prefect's page of a running stage shows: its progress bar, and its curves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from httpx import HTTPError
from prefect import get_client, get_run_logger
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.exceptions import PrefectException

from qwenlong.tasks.curves import curve_page, curve_rows
from qwenlong.tasks.stage import Progress
from qwenlong_core.settings.tree import Settings

_EVERY = 5.0
"""Seconds between two writes of the curves: a step may take less."""


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
        with _told(f"progress of {stage}"):
            update_progress_artifact(artifact_id=cast(Any, artifact_id), progress=share)

    return update


def curves_artifact(stage: str, settings: Settings, clock: Callable[[], float] = time.monotonic) -> Progress:
    """Takes the lines of a stage's metrics and shows its curves as an artifact; one without curves gets none."""
    lines: dict[int, dict[str, Any]] = {}
    artifact_id: Any = None
    written = -_EVERY

    def update(line: dict[str, Any]) -> None:
        nonlocal artifact_id, written
        if not line.get("total_steps"):
            return
        lines[line["step"]] = line
        shown = list(lines.values())
        last = line["step"] >= line["total_steps"]
        if (clock() - written < _EVERY and not last) or not curve_rows(shown):
            return
        written, page = clock(), curve_page(shown, settings, stage)
        with _told(f"curves of {stage}"):
            if artifact_id is None:
                about = f"Curves of stage {stage}, written while it runs"
                artifact_id = create_markdown_artifact(markdown=page, key=f"curves-{stage}", description=about)
            else:
                with get_client(sync_client=True) as client:
                    client.update_artifact(artifact_id, ArtifactUpdate(data=page))

    return update


@contextmanager
def _told(what: str) -> Iterator[None]:
    """A server that is away for a moment must not end the training: only the page stands still, and the log says so."""
    try:
        yield
    except (HTTPError, PrefectException) as error:
        get_run_logger().warning("%s not shown: %s", what, error)
