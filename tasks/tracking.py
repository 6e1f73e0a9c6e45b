"""MLflow: one parent run per pipeline run, one child per stage.

Training never depends on the tracker: a call that fails is logged and skipped. Metrics are sent from
the stage's ``metrics.jsonl`` as soon as the tracker answers again while the stage runs; what could
not be sent by its end stays in the artifact. Only the registry, whose job is to write to MLflow, lets
errors through (:mod:`tasks.registry`).
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
from mlflow.entities import Dataset, DatasetInput, Experiment, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME
from requests.exceptions import RequestException

from qwenlong_core.artifacts import ArtifactRef
from qwenlong_core.config import TrackingSettings

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_PARAM_LIMIT = 6000
"""MLflow refuses longer parameter values."""
_BATCH = 1000
"""MLflow's own limit of metrics in one call."""
_POLL_SECONDS = 2.0


def _survives_outage(call: Callable[P, T]) -> Callable[P, T | None]:
    """Log and skip a tracker failure: it must never end a training run."""

    @functools.wraps(call)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return call(*args, **kwargs)
        except (MlflowException, RequestException) as error:
            logger.warning("MLflow did not take %s, going on: %s", call.__name__, error)
            return None

    return wrapped


def prepare_tracking_folder(uri: str) -> None:
    """Create the folder of an SQLite tracking database; other addresses need nothing."""
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).absolute().parent.mkdir(parents=True, exist_ok=True)


def client_for(settings: TrackingSettings) -> MlflowClient:
    """A client of the tracking server and its registry."""
    prepare_tracking_folder(settings.uri)
    return MlflowClient(tracking_uri=settings.uri, registry_uri=settings.uri)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and text values of a nested mapping: ``{"a": {"b": 1}}`` gives ``("a.b", "1")``."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


class Tracker:
    """Runs of one pipeline. All methods survive a tracker that is down."""

    def __init__(self, settings: TrackingSettings) -> None:
        self.settings = settings
        self._client: MlflowClient | None = None

    @property
    def client(self) -> MlflowClient:
        """The MLflow client, made on first use: opening a database can fail, too."""
        if self._client is None:
            self._client = client_for(self.settings)
        return self._client

    def _experiment_id(self) -> str:
        found: Experiment | None = self.client.get_experiment_by_name(self.settings.experiment)
        if found:
            return str(found.experiment_id)
        return str(self.client.create_experiment(self.settings.experiment, self._artifact_location()))

    def _artifact_location(self) -> str | None:
        """Attachments lie beside an SQLite database, not in the working directory; a server decides itself."""
        if not self.settings.uri.startswith("sqlite:///"):
            return None
        return Path(self.settings.uri.removeprefix("sqlite:///")).absolute().with_suffix(".attachments").as_uri()

    @_survives_outage
    def start_run(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str], parent: str | None = None) -> str:
        """Open a run (a child where ``parent`` is given) and return its id."""
        own = {MLFLOW_RUN_NAME: name, "qwenlong.host": socket.gethostname(), "qwenlong.pid": str(os.getpid())}
        lineage = {MLFLOW_PARENT_RUN_ID: parent} if parent else {}
        run: Run = self.client.create_run(self._experiment_id(), tags={**own, **tags, **lineage})
        run_id = str(run.info.run_id)
        values = [Param(key, value[:_PARAM_LIMIT]) for key, value in flatten(params)]
        for start in range(0, len(values), 100):
            self.client.log_batch(run_id, params=values[start : start + 100])
        return run_id

    @_survives_outage
    def series(self, name: str, tags: Mapping[str, str]) -> str:
        """The id of the one run with these tags, whose metrics go on from day to day; opened if there is none."""
        query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = self.client.search_runs([self._experiment_id()], query, max_results=1)
        if found:
            return str(found[0].info.run_id)
        run = self.client.create_run(self._experiment_id(), tags={MLFLOW_RUN_NAME: name, **tags})
        self.client.set_terminated(run.info.run_id, "FINISHED")  # it has no process that could end it
        return str(run.info.run_id)

    @_survives_outage
    def page(self, run_id: str | None) -> str | None:
        """Where a person opens a run, once an MLflow server is up."""
        if run_id is None:
            return None
        experiment = self.client.get_run(run_id).info.experiment_id
        return f"{self.settings.ui_url}/#/experiments/{experiment}/runs/{run_id}"

    @_survives_outage
    def log_inputs(self, run_id: str | None, inputs: Mapping[str, ArtifactRef]) -> None:
        """Record data artifacts as MLflow datasets and the other inputs as tags."""
        if run_id is None:
            return
        datasets = [
            DatasetInput(_dataset(name, ref), [InputTag(MLFLOW_DATASET_CONTEXT, name)])
            for name, ref in inputs.items()
            if ref.kind == "data"
        ]
        if datasets:
            self.client.log_inputs(run_id, datasets)
        for name, ref in inputs.items():
            self.client.set_tag(run_id, f"input.{name}", f"{ref.uri} sha256:{ref.sha256}")

    @_survives_outage
    def log_output(self, run_id: str | None, stage: str, ref: ArtifactRef) -> None:
        """Record the artifact a stage made; a policy becomes a logged model that points at it."""
        if run_id is None:
            return
        self.client.set_tag(run_id, "artifact.uri", ref.uri)
        self.client.set_tag(run_id, "artifact.sha256", ref.sha256)
        if ref.kind == "model":
            tags = {"artifact.uri": ref.uri, "artifact.sha256": ref.sha256, "mlflow.model.isExternal": "true"}
            model = self.client.create_logged_model(
                self._experiment_id(), name=stage, source_run_id=run_id, tags=tags, model_type="policy"
            )
            self.client.finalize_logged_model(model.model_id, "READY")
            self.client.set_tag(run_id, "logged_model", model.model_id)
        elif ref.kind == "data":
            self.client.log_inputs(run_id, [DatasetInput(_dataset(stage, ref), [InputTag(MLFLOW_DATASET_CONTEXT, "output")])])

    @_survives_outage
    def log_text(self, run_id: str | None, text: str, name: str) -> None:
        """Attach a small text file to a run."""
        if run_id is not None:
            self.client.log_text(run_id, text, name)

    @_survives_outage
    def log_metrics(self, run_id: str, metrics: list[Metric]) -> bool:
        """Send metrics; ``True`` once they arrived."""
        for start in range(0, len(metrics), _BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + _BATCH])
        return True

    @_survives_outage
    def end_run(self, run_id: str | None, status: str) -> None:
        """Close a run as FINISHED, FAILED or KILLED."""
        if run_id is not None:
            self.client.set_terminated(run_id, status)

    @_survives_outage
    def close_orphans(self) -> list[str]:
        """Mark runs of this machine whose process is gone as KILLED; return the Prefect flow run ids
        of those that had one."""
        query = f"attributes.status = 'RUNNING' and tags.`qwenlong.host` = '{socket.gethostname()}'"
        flow_runs = []
        for run in self.client.search_runs([self._experiment_id()], query):
            if not psutil.pid_exists(int(run.data.tags["qwenlong.pid"])):
                self.client.set_terminated(run.info.run_id, "KILLED")
                if flow_run := run.data.tags.get("prefect.flow_run_id"):
                    flow_runs.append(flow_run)
        return flow_runs

    @_survives_outage
    def tag(self, run_id: str | None, key: str, value: str) -> None:
        """Set one tag."""
        if run_id is not None:
            self.client.log_batch(run_id, tags=[RunTag(key, value)])


def _dataset(name: str, ref: ArtifactRef) -> Dataset:
    source = json.dumps({"uri": ref.uri})
    # MLflow keeps at most 36 characters of a digest; the whole one is in the run's tags.
    kind = "s3" if ref.uri.startswith("s3:") else "local"
    return Dataset(name=name, digest=ref.sha256[:36], source_type=kind, source=source)


def to_metrics(line: Mapping[str, Any], timestamp_ms: int) -> list[Metric]:
    """The numbers of one line of ``metrics.jsonl`` as MLflow metrics at its step."""
    step = int(line.get("step", 0))
    return [
        Metric(key.replace("@", "_at_"), float(value), timestamp_ms, step)
        for key, value in line.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and key not in ("step", "time")
    ]


class StageTracking:
    """A stage's run, opened as soon as the tracker is there to take it."""

    def __init__(
        self,
        tracker: Tracker,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        parent: str | None,
        inputs: Mapping[str, ArtifactRef],
    ) -> None:
        self._tracker = tracker
        self._opening = (name, params, tags, parent)
        self._inputs = inputs
        self._run_id: str | None = None

    def run_id(self) -> str | None:
        """The run's id; ``None`` while the tracker is away."""
        if self._run_id is None:
            self._run_id = self._tracker.start_run(*self._opening)
            self._tracker.log_inputs(self._run_id, self._inputs)
        return self._run_id

    def send(self, line: Mapping[str, Any]) -> bool:
        """Send one line of metrics; ``True`` once it arrived."""
        run_id = self.run_id()
        if run_id is None:
            return False
        return bool(self._tracker.log_metrics(run_id, to_metrics(line, int(time.time() * 1000))))


def log_scores(tracker: Tracker, run_id: str | None, scores: list[dict[str, Any]], step: int) -> None:
    """Add the numbers of a score table to a run, one metric per row and column."""
    timestamp = int(time.time() * 1000)
    metrics = [
        Metric(f"{row['stage']}/{column}", float(value), timestamp, step)
        for row in scores
        for column, value in row.items()
        if isinstance(value, int | float)
    ]
    if run_id is not None:
        tracker.log_metrics(run_id, metrics)


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
