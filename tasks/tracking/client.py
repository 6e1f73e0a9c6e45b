"""MLflow: its client, what of a run is asked of it, and how step lines become metrics.

Training never depends on the tracker: a call that fails is logged and skipped, and what a run has to
tell is kept until MLflow has it (:mod:`qwenlong.tasks.tracking.outbox`). Only the registry, whose job is to write to
MLflow, lets errors through (:mod:`qwenlong.tasks.tracking.registry`).
"""

from __future__ import annotations

import contextvars
import functools
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import psutil
from mlflow.entities import Experiment, Metric
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from requests.exceptions import RequestException
from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from qwenlong_core.settings.running import TrackingSettings

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
"""A stage's step lines, in its output folder."""

P = ParamSpec("P")
T = TypeVar("T")

_ABOUT = "Runs of qwenlong: one for each pipeline, promotion and night, with its stages nested below it."
"""The experiment's description."""

TRAINING_PAGES = "workflowType=machine_learning"
"""Without it MLflow's pages open on what it has for chat applications (traces, judges, prompts)."""

_POLL_SECONDS = 2.0
_AWAY_SECONDS = 10.0
"""How long MLflow is left alone after it did not answer."""

# MLflow's own patience is minutes a call, during which a stage would wait for its tracker; it is asked again
# by us, and a call that is repeated only here can be checked before it is repeated.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("PGCONNECT_TIMEOUT", "30")


def prepare_tracking_folder(uri: str) -> None:
    """Create the folder of an SQLite tracking database; other addresses need nothing."""
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).absolute().parent.mkdir(parents=True, exist_ok=True)


def _reach_database(uri: str) -> None:
    """MLflow asks a database that is away ten times, for 105 seconds, and then raises what is no MlflowException."""
    if uri.startswith(("sqlite:", "http:", "https:")):
        return
    try:
        create_engine(uri, poolclass=NullPool).connect().close()
    except SQLAlchemyError as error:
        raise MlflowException(
            f"the database of tracking.uri={uri!r} does not answer: {error}", TEMPORARILY_UNAVAILABLE
        ) from error


def client_for(settings: TrackingSettings) -> MlflowClient:
    """A client of the tracking server and its registry.

    Raises:
        MlflowException: the database does not answer; a server is asked on the first call only.
    """
    prepare_tracking_folder(settings.uri)
    _reach_database(settings.uri)
    return MlflowClient(tracking_uri=settings.uri, registry_uri=settings.uri)


def run_page(settings: TrackingSettings, experiment_id: str, run_id: str) -> str:
    """Address of a run on MLflow's pages."""
    return f"{settings.ui_url}/#/experiments/{experiment_id}/runs/{run_id}?{TRAINING_PAGES}"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and text values of a nested mapping: ``{"a": {"b": 1}}`` gives ``("a.b", "1")``."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


class Tracker:
    """What the pipeline asks of MLflow. All methods survive a tracker that is down."""

    def __init__(self, settings: TrackingSettings) -> None:
        self.settings = settings
        self._away_until = 0.0

    @functools.cached_property
    def client(self) -> MlflowClient:
        """The MLflow client, made on first use: opening a database can fail, too."""
        return client_for(self.settings)

    @functools.cached_property
    def experiment_id(self) -> str:
        """The experiment's id; it is made if it is not there."""
        found: Experiment | None = self.client.get_experiment_by_name(self.settings.experiment)
        if found:
            return str(found.experiment_id)
        return str(
            self.client.create_experiment(
                self.settings.experiment, self._artifact_location(), {MLFLOW_RUN_NOTE: _ABOUT}
            )
        )

    def _artifact_location(self) -> str | None:
        """Attachments lie beside an SQLite database, not in the working directory; a server decides itself."""
        if not self.settings.uri.startswith("sqlite:///"):
            return None
        return Path(self.settings.uri.removeprefix("sqlite:///")).absolute().with_suffix(".attachments").as_uri()

    def attempt(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Call MLflow; ``None`` if it does not take it. After a failure it is left alone for a while, so
        that a server that is away costs a stage moments and not its patience."""
        if time.monotonic() < self._away_until:
            return None
        try:
            return call(*args, **kwargs)
        except (MlflowException, RequestException) as error:
            self._away_until = time.monotonic() + _AWAY_SECONDS
            logger.warning("MLflow at %s did not answer as hoped, going on without: %s", self.settings.uri, error)
            return None

    def page(self, run_id: str | None) -> str | None:
        """Where a person opens a run, once an MLflow server is up."""
        if run_id is None:
            return None
        experiment = self.attempt(lambda: self.experiment_id)
        return run_page(self.settings, experiment, run_id) if experiment else None

    def close_orphans(self) -> list[str]:
        """Mark runs of this machine whose process is gone as KILLED; return the Prefect flow run ids
        of those that had one."""
        return self.attempt(self._close_orphans) or []

    def _close_orphans(self) -> list[str]:
        query = f"attributes.status = 'RUNNING' and tags.`qwenlong.host` = '{socket.gethostname()}'"
        flow_runs = []
        for run in self.client.search_runs([self.experiment_id], query):
            if not psutil.pid_exists(int(run.data.tags["qwenlong.pid"])):
                self.client.set_terminated(run.info.run_id, "KILLED")
                if flow_run := run.data.tags.get("prefect.flow_run_id"):
                    flow_runs.append(flow_run)
        return flow_runs


def to_metrics(line: Mapping[str, Any], otherwise_ms: int) -> list[Metric]:
    """The numbers of one line of ``metrics.jsonl`` as MLflow metrics at its step.

    MLflow keeps a point once if it comes twice with the same time, so the time is the line's own.

    Args:
        otherwise_ms: time of a line that has none; the same at every attempt to send it.
    """
    step = int(line.get("step", 0))
    timestamp_ms = round(line["time"] * 1000) if "time" in line else otherwise_ms
    return [
        Metric(key.replace("@", "_at_"), float(value), timestamp_ms, step)
        for key, value in line.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and key not in ("step", "time")
    ]


def score_line(scores: list[dict[str, Any]], step: int) -> dict[str, Any]:
    """A score table as one step line: a number per row and column."""
    numbers = {
        f"{row['stage']}/{column}": value
        for row in scores
        for column, value in row.items()
        if isinstance(value, int | float)
    }
    return {"step": step} | numbers


def read_lines(path: Path) -> tuple[dict[str, Any], ...]:
    """All whole step lines of a file; none if there is no file."""
    if not path.is_file():
        return ()
    return tuple(json.loads(raw) for raw in path.read_bytes().splitlines(keepends=True) if raw.endswith(b"\n"))


class MetricsForwarder:
    """Follows a growing ``metrics.jsonl`` and hands the line of every new step to ``on_line``.

    A line is only passed over once ``on_line`` returned ``True``, so nothing is lost while the
    tracker is down, and each step goes out once, also when a resumed training cut the file back
    to its checkpoint and repeats the steps after it.
    """

    def __init__(self, path: Path, on_line: Callable[[dict[str, Any]], bool]) -> None:
        self._path = path
        self._on_line = on_line
        self._last_step = -1
        self._stop = threading.Event()
        # Prefect keeps its settings and the current task run in context variables.
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._follow,), name="metrics-forwarder", daemon=True)

    def __enter__(self) -> MetricsForwarder:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        self.drain()

    def _follow(self) -> None:
        while not self._stop.wait(_POLL_SECONDS):
            self.drain()

    def drain(self) -> None:
        """Pass on the line of every step that has not gone out yet.

        The file is read from its start each time: a resume may cut it back and write on between two
        looks, and it has one line a step.
        """
        if not self._path.is_file():
            return
        for raw in self._path.read_bytes().splitlines(keepends=True):
            if not raw.endswith(b"\n"):
                return
            line = json.loads(raw)
            if line["step"] > self._last_step:
                if not self._on_line(line):
                    return
                self._last_step = line["step"]
