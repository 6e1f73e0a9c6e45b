"""MLflow runs, made from notes: what MLflow is to know of one run, and the calls that tell it.

Nothing is doubled, however often a note is delivered. A run carries its key as a tag and is looked for before it is
made. A metric is sent with the time of its step line, and MLflow keeps one of several equal points. A logged model is
looked for by its run and its digest.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Mapping
from typing import Any, Literal

from mlflow.entities import Dataset, DatasetInput, InputTag, Param, Run, RunTag
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NAME,
    MLFLOW_RUN_NOTE,
)
from pydantic import Field

from qwenlong.tasks.tracking.client import Tracker, flatten
from qwenlong.tasks.tracking.metrics import renamed_metrics, to_metrics
from qwenlong_core.settings.base import Block
from qwenlong_core.store.artifacts import ArtifactRef

KEY_TAG = "qwenlong.key"
PARENT_TAG = "qwenlong.parent"
REFUSED_TAG = "qwenlong.refused"
"""Tag of a run that MLflow did not take all of: why."""
_PARAM_LIMIT, _TAG_LIMIT = 6000, 8000
"""Characters of a parameter's and a tag's value; MLflow refuses longer ones, so a file of the run holds them whole."""
_PARAMS, _METRICS = 100, 1000
"""MLflow's own limits of one call."""

Status = Literal["FINISHED", "FAILED", "KILLED"]


def _own_tags() -> dict[str, str]:
    return {"qwenlong.host": socket.gethostname(), "qwenlong.pid": str(os.getpid())}


class RunNote(Block):
    """Everything to be told about one run; JSON, so that it can wait in the outbox."""

    key: str = Field(default_factory=lambda: uuid.uuid4().hex)
    """Identity of the run, chosen here: the run's own id comes from MLflow, which may not answer."""
    name: str
    params: dict[str, Any]
    tags: dict[str, str]
    parent: str | None = None
    """Key of the run it belongs to."""
    inputs: dict[str, ArtifactRef] = Field(default_factory=dict)
    started_ms: int = Field(default_factory=lambda: int(time.time() * 1000))
    origin: dict[str, str] = Field(default_factory=_own_tags)
    """Tags that name the machine and process."""
    status: Status | None = None
    """``None`` while it runs."""
    ended_ms: int | None = None
    lines: tuple[dict[str, Any], ...] = ()
    """Step lines with the numbers of ``metrics.jsonl``."""
    output: ArtifactRef | None = None
    texts: dict[str, str] = Field(default_factory=dict)
    """Small files to attach, by name."""


class Runs:
    """Opens, fills and closes MLflow runs.

    Every method can be repeated, and changes nothing the second time. All raise what MLflow raises.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def find(self, key: str) -> Run | None:
        """The run with this key, or ``None``."""
        return next(iter(self._with_key(key)), None)

    def _with_key(self, key: str) -> list[Run]:
        query = f"tags.`{KEY_TAG}` = '{key}'"
        return list(self._tracker.client.search_runs([self._tracker.experiment_id], query))

    def open(self, note: RunNote) -> str:
        """Find the note's run, or make it, and give it its parameters and inputs; returns the run's id."""
        client, run = self._tracker.client, self.find(note.key)
        if run is None:
            tags = {
                MLFLOW_RUN_NAME: note.name,
                KEY_TAG: note.key,
                **note.origin,
                **note.tags,
                **self._parent_tags(note),
            }
            run = client.create_run(
                self._tracker.experiment_id, start_time=note.started_ms, tags=_short(tags, _TAG_LIMIT)
            )
        run_id = str(run.info.run_id)
        # Again for a run that was there: it may have been made just before MLflow went away. MLflow takes a parameter
        # twice if the value is the same.
        told = dict(flatten(note.params))
        params = [Param(key, value) for key, value in _short(told, _PARAM_LIMIT).items()]
        for start in range(0, len(params), _PARAMS):
            client.log_batch(run_id, params=params[start : start + _PARAMS])
        self._attach(run_id, "long_parameters.json", _long(told, _PARAM_LIMIT))
        self._log_inputs(run_id, note.inputs)
        self._adopt_children(run_id, note.key)
        return run_id

    def _attach(self, run_id: str, name: str, values: Mapping[str, str]) -> None:
        """Keep values that MLflow's fields do not hold, whole, in a file of the run."""
        if values:
            self._tracker.client.log_text(run_id, json.dumps(values, indent=1, ensure_ascii=False), name)

    def close_refused(self, note: RunNote, reason: str) -> None:
        """Close the run of a note that MLflow does not take, with the status it ended in."""
        for run in self._with_key(note.key):
            self._tracker.client.set_tag(run.info.run_id, REFUSED_TAG, reason[:_TAG_LIMIT])
            self._tracker.client.set_terminated(run.info.run_id, note.status, note.ended_ms)

    def _parent_tags(self, note: RunNote) -> dict[str, str]:
        if note.parent is None:
            return {}
        parent = self.find(note.parent)
        return {PARENT_TAG: note.parent} | ({MLFLOW_PARENT_RUN_ID: parent.info.run_id} if parent else {})

    def _adopt_children(self, run_id: str, key: str) -> None:
        """Link the runs that reached MLflow before the run they belong to."""
        client = self._tracker.client
        for child in client.search_runs([self._tracker.experiment_id], f"tags.`{PARENT_TAG}` = '{key}'"):
            if child.data.tags.get(MLFLOW_PARENT_RUN_ID) != run_id:
                client.set_tag(child.info.run_id, MLFLOW_PARENT_RUN_ID, run_id)

    def _log_inputs(self, run_id: str, inputs: Mapping[str, ArtifactRef]) -> None:
        datasets = [(name, ref) for name, ref in inputs.items() if ref.kind == "data"]
        if datasets:
            self._tracker.client.log_inputs(run_id, [_dataset_input(name, ref, name) for name, ref in datasets])
        # All inputs as tags, since MLflow has datasets only; `gc` keeps the inputs of open runs by these tags.
        tags = [RunTag(f"input.{name}", f"{ref.uri} sha256:{ref.sha256}") for name, ref in inputs.items()]
        if tags:
            self._tracker.client.log_batch(run_id, tags=tags)

    def send(self, run_id: str, note: RunNote, line: Mapping[str, Any]) -> bool:
        """Send one step line; ``True`` once it arrived."""
        metrics = to_metrics(line, note.started_ms)
        for start in range(0, len(metrics), _METRICS):
            self._tracker.client.log_batch(run_id, metrics=metrics[start : start + _METRICS])
        return True

    def finish(self, run_id: str, note: RunNote) -> bool:
        """Attach the results and close the run."""
        client = self._tracker.client
        for name, text in note.texts.items():
            client.log_text(run_id, text, name)
        if note.output is not None:
            self._log_output(run_id, note.name, note.output)
        self._attach(run_id, "metric_names.json", renamed_metrics(note.lines))
        self._attach(run_id, "long_tags.json", _long(note.tags, _TAG_LIMIT))
        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in _short(note.tags, _TAG_LIMIT).items()])
        client.set_terminated(run_id, note.status, note.ended_ms)
        for run in self._with_key(note.key):
            # A server that hung may have made a first run after we had given up on it and made a second.
            if run.info.run_id != run_id:
                client.delete_run(run.info.run_id)
        return True

    def _log_output(self, run_id: str, stage: str, ref: ArtifactRef) -> None:
        """Point at the artifact that a stage made; a model also becomes a logged model in MLflow."""
        client = self._tracker.client
        tags = {"artifact.uri": ref.uri, "artifact.sha256": ref.sha256, MLFLOW_RUN_NOTE: mlflow_description(ref)}
        if ref.kind == "data":
            client.log_inputs(run_id, [_dataset_input(stage, ref, "output")])
        elif ref.kind == "model":
            tags["logged_model"] = self._logged_model(run_id, stage, ref)
        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def _logged_model(self, run_id: str, stage: str, ref: ArtifactRef) -> str:
        client, experiment = self._tracker.client, self._tracker.experiment_id
        query = f"source_run_id = '{run_id}'"
        logged = client.search_logged_models([experiment], query)
        model = next((found for found in logged if found.tags.get("artifact.sha256") == ref.sha256), None)
        if model is None:
            # External: the weights stay in the artifact store, and MLflow keeps none.
            tags = {"artifact.uri": ref.uri, "artifact.sha256": ref.sha256, "mlflow.model.isExternal": "true"}
            model = client.create_logged_model(
                experiment, name=stage, source_run_id=run_id, tags=tags, model_type="policy"
            )
        client.finalize_logged_model(model.model_id, "READY")
        return str(model.model_id)

    def deliver(self, note: RunNote) -> str:
        """Tell MLflow everything in a finished run's note; returns the run's id."""
        run_id = self.open(note)
        for line in note.lines:
            self.send(run_id, note, line)
        self.finish(run_id, note)
        return run_id


def _short(values: Mapping[str, str], limit: int) -> dict[str, str]:
    """The values; those over the limit are cut and end in a mark."""
    return {key: value if len(value) <= limit else f"{value[: limit - 2]} …" for key, value in values.items()}


def _long(values: Mapping[str, str], limit: int) -> dict[str, str]:
    return {key: value for key, value in values.items() if len(value) > limit}


def _dataset_input(name: str, ref: ArtifactRef, context: str) -> DatasetInput:
    # MLflow keeps at most 36 characters of a digest; the whole one is in the run's tags.
    kind = "s3" if ref.uri.startswith("s3:") else "local"
    dataset = Dataset(name=name, digest=ref.sha256[:36], source_type=kind, source=json.dumps({"uri": ref.uri}))
    return DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, context)])


def mlflow_description(ref: ArtifactRef) -> str:
    """An artifact for MLflow's description fields, with the command that shows its address and its whole lineage."""
    return f"`{ref.kind}/{ref.short}`\n\nSHA-256 `{ref.sha256}`\n\nLineage: `qwenlong artifacts show {ref.short}`"
