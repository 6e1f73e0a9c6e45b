"""The MLflow client, and how the pipeline goes on while MLflow does not answer.

Training never depends on MLflow. A call that fails is logged and skipped, and what a run has to tell waits in the
outbox (:mod:`qwenlong.tasks.tracking.outbox`). Only the registry lets errors through, since writing to MLflow is its
whole job (:mod:`qwenlong.tasks.tracking.registry`).
"""

from __future__ import annotations

import functools
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import psutil
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    BAD_REQUEST,
    INVALID_PARAMETER_VALUE,
    PERMISSION_DENIED,
    RESOURCE_ALREADY_EXISTS,
    TEMPORARILY_UNAVAILABLE,
    UNAUTHENTICATED,
    ErrorCode,
)
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from requests.exceptions import RequestException
from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from qwenlong.tasks.locks import one_at_a_time
from qwenlong_core.proxies import proxy_trouble, spare_loopback
from qwenlong_core.settings.running import TrackingSettings

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_ABOUT = "Runs of qwenlong: one for each pipeline, promotion and night, with its stages nested below it."
"""The experiment's description."""

TRAINING_PAGES = "workflowType=machine_learning"
"""Query of MLflow's addresses. Without it the pages open on those for chat applications (traces, judges, prompts)."""

_REFUSALS = frozenset(ErrorCode.Name(code) for code in (INVALID_PARAMETER_VALUE, BAD_REQUEST))

_DENIALS = frozenset(ErrorCode.Name(code) for code in (UNAUTHENTICATED, PERMISSION_DENIED))

_AWAY_SECONDS = 10.0
"""How long MLflow is not asked again after it did not answer."""

_CLOCK_SECONDS = 3600.0
"""By how much the clock may be set forward while a process lives, before it is taken for another."""

# By default MLflow retries one call for minutes, and the stage would wait. We repeat calls ourselves: a call that is
# repeated only here can first be checked for having arrived.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("PGCONNECT_TIMEOUT", "30")


@functools.cache
def make_database(uri: str) -> None:
    """Make the SQLite tracking database if it is not there; other addresses need nothing."""
    if uri.startswith("sqlite:///"):
        # Under a lock: MLflow fails when two processes make the same tables.
        with one_at_a_time(Path(uri.removeprefix("sqlite:///") + ".lock").absolute()):
            MlflowClient(tracking_uri=uri, registry_uri=uri).search_experiments(max_results=1)


def _reach(uri: str) -> None:
    """Fail at once if the database does not answer, or a proxy does not let through to the server."""
    if uri.startswith("sqlite:"):
        return
    if uri.startswith(("http:", "https:")):
        spare_loopback(uri)
        if trouble := proxy_trouble(uri):
            raise MlflowException(trouble, TEMPORARILY_UNAVAILABLE)
        return
    # MLflow itself tries ten times, for 105 seconds, and then raises something that is no MlflowException.
    try:
        create_engine(uri, poolclass=NullPool).connect().close()
    except SQLAlchemyError as error:
        raise MlflowException(
            f"the database of tracking.uri={uri!r} does not answer: {error}", TEMPORARILY_UNAVAILABLE
        ) from error


def client_for(settings: TrackingSettings) -> MlflowClient:
    """A client of the tracking server and its registry.

    Raises:
        MlflowException: the database does not answer, or a proxy is in the way. A server is otherwise only contacted
            by the first call.
    """
    make_database(settings.uri)
    _reach(settings.uri)
    return MlflowClient(tracking_uri=settings.uri, registry_uri=settings.uri)


def run_page(settings: TrackingSettings, experiment_id: str, run_id: str) -> str:
    """Address of a run on MLflow's pages."""
    return f"{settings.ui_url}/#/experiments/{experiment_id}/runs/{run_id}?{TRAINING_PAGES}"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and text values of a nested mapping: ``{"a": {"b": 1}}`` gives ``("a.b", "1")``.

    A mapping whose keys are not names of settings, such as paths of files, is one value, as JSON.
    """
    for key, value in tree.items():
        if isinstance(value, Mapping) and all(name.isascii() and name.isidentifier() for name in value):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value) if isinstance(value, Mapping) else str(value)


def has_ended(pid: int, began: float) -> bool:
    """Whether the process of this machine that began something has ended.

    Args:
        began: when it did, seconds since 1970. A process that was started well after that only has the same number.
    """
    try:
        return psutil.Process(pid).create_time() > began + _CLOCK_SECONDS
    except psutil.NoSuchProcess:
        return True


def is_refusal(error: Exception) -> bool:
    """Whether MLflow answered that it does not take what it was sent; another try cannot help."""
    return isinstance(error, MlflowException) and error.error_code in _REFUSALS


class Tracker:
    """Calls MLflow on behalf of the pipeline. Methods do not raise if MLflow is down; the two properties do."""

    def __init__(self, settings: TrackingSettings) -> None:
        self.settings = settings
        self.refusal = ""
        """Why MLflow refused the content of the last call that failed; empty if it was away."""
        self.denial = ""
        """What the server said when it turned this user away; empty if it never did."""
        self._away_until = 0.0

    @functools.cached_property
    def client(self) -> MlflowClient:
        """The MLflow client, made on first use, since opening a database can fail too."""
        return client_for(self.settings)

    @functools.cached_property
    def experiment_id(self) -> str:
        """The experiment's id; it is made if it is not there."""
        found: Experiment | None = self.client.get_experiment_by_name(self.settings.experiment)
        if found:
            return str(found.experiment_id)
        try:
            made = self.client.create_experiment(
                self.settings.experiment, self._artifact_location(), {MLFLOW_RUN_NOTE: _ABOUT}
            )
        except MlflowException as error:
            # Another process was first.
            there: Experiment | None = self.client.get_experiment_by_name(self.settings.experiment)
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS) or there is None:
                raise
            made = there.experiment_id
        return str(made)

    def _artifact_location(self) -> str | None:
        """Where small files of runs go: beside an SQLite database, else where the server puts them."""
        # MLflow's own default beside a database is the working folder.
        if not self.settings.uri.startswith("sqlite:///"):
            return None
        return Path(self.settings.uri.removeprefix("sqlite:///")).absolute().with_suffix(".attachments").as_uri()

    def attempt(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Make a call to MLflow; returns ``None`` if it fails.

        For some seconds after a failure no call is made, so that a server that is away does not slow a stage down.
        """
        if time.monotonic() < self._away_until:
            return None
        try:
            return call(*args, **kwargs)
        except (MlflowException, RequestException) as error:
            self.refusal = str(error) if is_refusal(error) else ""
            if getattr(error, "error_code", "") in _DENIALS:
                self.denial = str(error)
            if self.refusal:
                logger.error("MLflow at %s refused a call: %s", self.settings.uri, error)
                return None
            self._away_until = time.monotonic() + _AWAY_SECONDS
            logger.warning("the call to MLflow at %s failed, going on without it: %s", self.settings.uri, error)
            return None

    def require_access(self) -> None:
        """Refuse to go on where a server has turned this user away: at the end no model could be registered.

        Raises:
            ValueError: it did so in an earlier call of :meth:`attempt`.
        """
        if self.denial:
            raise ValueError(
                f"MLflow at tracking.uri={self.settings.uri!r} turns this user away: {self.denial} Set"
                " MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to a user who may write to the experiment"
                f" {self.settings.experiment!r}"
            )

    def page(self, run_id: str | None) -> str | None:
        """Address of a run for a person, who needs a running MLflow server to open it."""
        if run_id is None:
            return None
        experiment = self.attempt(lambda: self.experiment_id)
        return run_page(self.settings, experiment, run_id) if experiment else None

    def close_orphans(self) -> list[str]:
        """Mark the runs of this machine whose process is gone as KILLED.

        Returns:
            The ids of their Prefect flow runs, where they had one.
        """
        return self.attempt(self._close_orphans) or []

    def close_superseded(self, fingerprint: str, finished: str) -> None:
        """Mark the other open runs of a finished stage as KILLED: their host died, and will not say so any more.

        Should one be alive after all, it sets its own status when it ends.
        """
        query = f"attributes.status = 'RUNNING' and tags.fingerprint = '{fingerprint}'"
        for run in self.client.search_runs([self.experiment_id], query):
            if run.info.run_id != finished:
                self.client.set_terminated(run.info.run_id, "KILLED")

    def _close_orphans(self) -> list[str]:
        query = f"attributes.status = 'RUNNING' and tags.`qwenlong.host` = '{socket.gethostname()}'"
        flow_runs = []
        for run in self.client.search_runs([self.experiment_id], query):
            if has_ended(int(run.data.tags["qwenlong.pid"]), run.info.start_time / 1000):
                self.client.set_terminated(run.info.run_id, "KILLED")
                if flow_run := run.data.tags.get("prefect.flow_run_id"):
                    flow_runs.append(flow_run)
        return flow_runs
