"""``qwenlong run`` for a person: start the flow, keep the log readable, print the result."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from rich.console import Console

from qwenlong.flows.cli.environment import prefect_api
from qwenlong.flows.cli.tables import table
from qwenlong.flows.full_pipeline import describe_settings, full_pipeline
from qwenlong.flows.pipeline_run import preflight
from qwenlong.tasks.process import ProcessFailed, StageRefused
from qwenlong.tasks.specs import SCALED_DOWN, is_scaled_down
from qwenlong.tasks.tracking.champion import RollbackRefused
from qwenlong_core.settings.profiles import SettingsError, load_settings
from qwenlong_core.store.artifacts import ArtifactError


def run_pipeline(profile: str, overrides: list[str], refresh: str | None, start: str | None) -> dict[str, Any]:
    """Check everything that can be known beforehand, then run the flow.

    Raises:
        ValueError: bad settings or data.
    """
    settings = load_settings(profile, overrides)
    preflight(settings, refresh, start)
    print(f"qwenlong: profile {settings.profile}: {describe_settings(settings)}", file=sys.stderr)
    with prefect_api() as url:
        quieten()
        print(f"qwenlong: Prefect API at {url}", file=sys.stderr)
        result: dict[str, Any] = full_pipeline(profile=profile, overrides=overrides, refresh=refresh, start=start)
    return result | {"scaled_down": is_scaled_down(settings), "mlflow_uri": settings.tracking.uri}


def quieten() -> None:
    """Leave out tracebacks of refused stages, whose message says all, and chatter of libraries."""
    for name in ("alembic", "mlflow", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("prefect.task_runs", "prefect.flow_runs"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(_drop_expected_traceback)


def _drop_expected_traceback(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(
        error, StageRefused | ProcessFailed | ArtifactError | SettingsError | RollbackRefused | ConnectionError
    ):
        record.exc_info, record.exc_text = None, None
    return True


def print_result(result: dict[str, Any], *, as_json: bool) -> None:
    """The table of scores, the artifacts, the registry version and where to look further."""
    if as_json:
        print(json.dumps(result))
        return
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table("Accuracy by stage and domain, with 95% intervals clustered on documents", result["scores"]))
    if result["scaled_down"]:
        console.print(SCALED_DOWN, style="italic")
    rows = [
        {
            "stage": row["stage"],
            "result": row["how"],
            "seconds": f"{row['seconds']:.0f}",
            "artifact": row["sha256"][:12],
        }
        for row in result["stages"]
    ]
    console.print(table("Artifacts", rows))
    if all(row["how"] != "ran" for row in result["stages"]):
        console.print("Every stage was a cache hit: nothing was trained or generated.")
    version = result["model"]
    console.print(f"Registry   {version['name']} version {version['version']}; {result['promotion']}", soft_wrap=True)
    console.print(f"Report     {result['report']}", soft_wrap=True)
    serve = "make serve" if result["profile"] == "local" else f"qwenlong serve --profile {result['profile']}"
    console.print(f"Pages      `{serve}` shows this run in MLflow and Prefect:", soft_wrap=True)
    for page in filter(None, result["pages"].values()):
        console.print(f"           {page}", soft_wrap=True)
