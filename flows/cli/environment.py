"""Project-local Prefect: its database and results live in ``.qwenlong/prefect``, and a run without a
server brings its own for as long as it lasts.

Imported before Prefect, whose settings are read from the environment on import.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from qwenlong.tasks.process import shielded_from_ctrl_c

STATE = Path(".qwenlong")
"""Everything a run leaves behind, below the working directory."""

_DEFAULTS = {
    "PREFECT_HOME": str((STATE / "prefect").absolute()),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLI_PROMPT": "false",
    # In memory, Prefect's default, leases are lost when the server is killed, and the slot of a deployment that runs
    # one at a time stays taken: every night after that is cancelled.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # Prefect's own is pickle, for whoever has it keep all results
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout is for results (`--json`)
    "DO_NOT_TRACK": "1",
}

_START_SECONDS = 120

_SERVED_PAGES = "http://127.0.0.1:4200"
"""Where `make serve` shows the runs of a server that has ended."""


def use_project_defaults() -> None:
    """Set the defaults for variables the user has not set."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)


def is_up(url: str, timeout: float = 2.0) -> bool:
    """Whether an HTTP address answers without an error."""
    try:
        return httpx.get(url, timeout=timeout).is_success
    except httpx.HTTPError:
        return False


@contextmanager
def _logs_sent() -> Iterator[None]:
    """Send the last log lines while the server is still there to take them."""
    from prefect.logging.handlers import APILogHandler

    try:
        yield
    finally:
        APILogHandler().flush()


@contextmanager
def prefect_api() -> Iterator[str]:
    """The address of a Prefect API: the configured one if it is up, else a server of our own.

    Raises:
        ConnectionError: ``PREFECT_API_URL`` names a server that does not answer.
    """
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL, temporary_settings

    configured = PREFECT_API_URL.value()
    if configured and is_up(f"{configured}/health"):
        with _logs_sent():
            yield configured
        return
    if os.environ.get("PREFECT_API_URL"):
        raise ConnectionError(
            f"PREFECT_API_URL={configured!r} does not answer: start that server, or unset the variable to run"
            " without one"
        )

    class Server(SubprocessASGIServer):
        """Ours to stop: without it the end of an interrupted run could not be told, and is tried for minutes."""

        def _run_uvicorn_command(self) -> subprocess.Popen[Any]:
            with shielded_from_ctrl_c():
                return super()._run_uvicorn_command()

    server = Server()
    server.start(timeout=_START_SECONDS)
    os.environ["PREFECT_API_URL"] = server.api_url
    try:
        with temporary_settings({PREFECT_API_URL: server.api_url, PREFECT_UI_URL: _SERVED_PAGES}), _logs_sent():
            yield server.api_url
    finally:
        del os.environ["PREFECT_API_URL"]
        server.stop()
