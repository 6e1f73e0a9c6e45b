"""Prefect for this project alone: its state lives in ``.qwenlong/prefect``, and a run starts a server if none is up.

Prefect reads its settings from the environment when it is imported, so this module imports it inside functions.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx

from qwenlong.tasks.locks import one_at_a_time
from qwenlong.tasks.process import shielded_from_ctrl_c
from qwenlong_core.errors import QwenlongError
from qwenlong_core.proxies import by_way_of, is_loopback, spare_loopback

STATE = Path(".qwenlong")
"""Everything that a run leaves behind, in a folder of the working directory."""

_DEFAULTS = {
    "PREFECT_HOME": str((STATE / "prefect").absolute()),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLI_PROMPT": "false",
    # Prefect keeps leases in memory by default. When the server is killed they are lost, the slot of a deployment
    # that runs one at a time stays taken, and every later nightly run is cancelled.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # Prefect's default, pickle, can run code when read
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout is for results
    "DO_NOT_TRACK": "1",
}

_START_SECONDS = 120

_SERVED_PAGES = "http://127.0.0.1:4200"
"""Where `make serve` shows a run after the server that it ran on has ended."""


def use_project_defaults() -> None:
    """Set the defaults of all variables that the user has not set; call it before Prefect is imported."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    spare_loopback()
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)


def is_up(url: str, timeout: float = 2.0) -> bool:
    """Whether an HTTP address answers with a status of success."""
    try:
        return httpx.get(url, timeout=timeout).is_success
    except httpx.HTTPError:
        return False


def other_home(url: str) -> Path | None:
    """The state folder of the Prefect server on this machine at an address, if it is not that of this folder.

    ``prefect.toml`` names a port, and whoever listens there may belong to another project.
    """
    if not is_loopback(url):
        return None  # one for a team
    try:
        answer = httpx.get(f"{url}/admin/settings", timeout=5.0)
        home = answer.json().get("home") if answer.is_success else None
    except (httpx.HTTPError, ValueError):
        return None  # it is no Prefect server, or does not tell
    found = Path(home).resolve() if home else None
    return None if found == Path(os.environ["PREFECT_HOME"]).resolve() else found


def prefect_start_lock() -> AbstractContextManager[int]:
    """Hold it while a Prefect server starts: of two at once in a new folder, both would make the database."""
    return one_at_a_time(Path(os.environ["PREFECT_HOME"]) / "start.lock")


@contextmanager
def _logs_sent() -> Iterator[None]:
    """On leaving the block, send the last log lines while the server is still up."""
    from prefect.logging.handlers import APILogHandler

    try:
        yield
    finally:
        APILogHandler().flush()


def foreign(url: str, home: Path) -> str:
    """What to say of a server that keeps its state in another folder."""
    return (
        f"the Prefect server at {url} keeps its state in {home}, not in {os.environ['PREFECT_HOME']}: it is another "
        f"project's. Stop it, or export PREFECT_API_URL={url} to use it all the same"
    )


@contextmanager
def prefect_api() -> Iterator[str]:
    """Yield the address of a Prefect API: the configured one if it is up, else a server that lasts for the block.

    Raises:
        ConnectionError: ``PREFECT_API_URL`` names a server that does not answer.
        ValueError: the server at the port of ``prefect.toml`` is another folder's.
    """
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL, get_current_settings, temporary_settings

    configured = PREFECT_API_URL.value()
    spare_loopback(*([configured] if configured else []))
    if configured and is_up(f"{configured}/health"):
        if not os.environ.get("PREFECT_API_URL") and (other := other_home(configured)):
            raise ValueError(foreign(configured, other))
        with _logs_sent():
            yield configured
        return
    if os.environ.get("PREFECT_API_URL"):
        raise ConnectionError(
            f"PREFECT_API_URL={configured!r} does not answer{by_way_of(configured or '')}: start that server, or unset"
            " the variable to run without one"
        )

    class Server(SubprocessASGIServer):
        """A server that survives Ctrl-C and SIGTERM to the run's group, but not the run.

        If it stopped at once, an interrupted run could not report its end, and Prefect would retry for minutes.
        """

        def _run_uvicorn_command(self) -> subprocess.Popen[Any]:
            options = ["--factory", "prefect.server.api.server:create_app", "--host", "127.0.0.1", "--lifespan", "on"]
            options += ["--port", str(self.port), "--log-level", "error"]
            # As Prefect starts it: without pages, and for a short time.
            ours = {name: "1" for name in ("PREFECT__SERVER_EPHEMERAL", "PREFECT__SERVER_FINAL")}
            ours |= {"PREFECT_UI_ENABLED": "0"} | get_current_settings().to_environment_variables(exclude_unset=True)
            command = [sys.executable, "-m", "qwenlong.flows.cli.own_server", str(os.getpid()), *options]
            with shielded_from_ctrl_c():
                return subprocess.Popen(command, env=os.environ | ours)

    server = Server()
    with prefect_start_lock():
        server.start(timeout=_START_SECONDS)
    os.environ["PREFECT_API_URL"] = server.api_url
    try:
        with temporary_settings({PREFECT_API_URL: server.api_url, PREFECT_UI_URL: _SERVED_PAGES}), _logs_sent():
            yield server.api_url
    finally:
        del os.environ["PREFECT_API_URL"]
        server.stop()


def quiet_logs() -> None:
    """Leave out the chatter of libraries, and the traceback of an expected error, whose message says enough."""
    for name in ("alembic", "mlflow", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("prefect.task_runs", "prefect.flow_runs"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(_drop_expected_traceback)


def _drop_expected_traceback(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, QwenlongError | ConnectionError):
        record.exc_info, record.exc_text = None, None
    return True
