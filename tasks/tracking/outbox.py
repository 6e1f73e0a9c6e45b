"""What MLflow is to know of a run, kept until MLflow has it.

A run is opened, filled and closed while its stage works. What MLflow could not take by the end, because
it was away for a moment or all the time, is written to a file of the outbox and delivered later: by the
next stage, the next pipeline run, or ``qwenlong sync``. Nothing is doubled: a run carries its key as a tag
and is looked for before it is made, a metric is sent with its own time (MLflow keeps one point of equal
ones), and a logged model is looked for by its run and digest.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from mlflow.entities import Dataset, DatasetInput, InputTag, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, ErrorCode
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NAME,
    MLFLOW_RUN_NOTE,
)
from pydantic import Field, ValidationError
from requests.exceptions import RequestException

from qwenlong.tasks.tracking.client import Tracker, flatten, to_metrics
from qwenlong_core.settings.base import Block
from qwenlong_core.settings.tree import Settings
from qwenlong_core.store.artifacts import ArtifactRef

logger = logging.getLogger(__name__)

KEY_TAG = "qwenlong.key"
PARENT_TAG = "qwenlong.parent"
_PARAM_LIMIT = 6000
"""MLflow refuses longer parameter values."""
_PARAMS, _METRICS = 100, 1000
"""MLflow's own limits of one call."""
_REFUSED = ErrorCode.Name(INVALID_PARAMETER_VALUE)

Status = Literal["FINISHED", "FAILED", "KILLED"]


def outbox_of(settings: Settings) -> Path:
    """Where a machine keeps what MLflow has not got yet."""
    return Path(settings.storage.runs_dir).absolute().parent / "outbox"


def _own_tags() -> dict[str, str]:
    return {"qwenlong.host": socket.gethostname(), "qwenlong.pid": str(os.getpid())}


class RunNote(Block):
    """All that is to be told of one run."""

    key: str = Field(default_factory=lambda: uuid.uuid4().hex)
    name: str
    params: dict[str, Any]
    tags: dict[str, str]
    parent: str | None = None
    """Key of the run it belongs to."""
    inputs: dict[str, ArtifactRef] = Field(default_factory=dict)
    started_ms: int = Field(default_factory=lambda: int(time.time() * 1000))
    origin: dict[str, str] = Field(default_factory=_own_tags)
    status: Status | None = None
    """``None`` while it runs."""
    ended_ms: int | None = None
    lines: tuple[dict[str, Any], ...] = ()
    """Step lines with the numbers of ``metrics.jsonl``."""
    output: ArtifactRef | None = None
    texts: dict[str, str] = Field(default_factory=dict)
    """Small files to attach, by name."""


class Runs:
    """MLflow runs by their notes. Every method can be repeated and changes nothing the second time;
    all of them raise what MLflow raises."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def find(self, key: str) -> Run | None:
        """The run of a key."""
        return next(iter(self._all(key)), None)

    def _all(self, key: str) -> list[Run]:
        query = f"tags.`{KEY_TAG}` = '{key}'"
        return list(self._tracker.client.search_runs([self._tracker.experiment_id], query))

    def open(self, note: RunNote) -> str:
        """The note's run with its parameters and inputs, made if it is not there; returns its id."""
        client, run = self._tracker.client, self.find(note.key)
        if run is None:
            tags = {
                MLFLOW_RUN_NAME: note.name,
                KEY_TAG: note.key,
                **note.origin,
                **note.tags,
                **self._parent_tags(note),
            }
            run = client.create_run(self._tracker.experiment_id, start_time=note.started_ms, tags=tags)
        run_id = str(run.info.run_id)
        params = [Param(key, value[:_PARAM_LIMIT]) for key, value in flatten(note.params)]
        for start in range(0, len(params), _PARAMS):
            client.log_batch(run_id, params=params[start : start + _PARAMS])
        self._log_inputs(run_id, note.inputs)
        self._adopt_children(run_id, note.key)
        return run_id

    def _parent_tags(self, note: RunNote) -> dict[str, str]:
        if note.parent is None:
            return {}
        parent = self.find(note.parent)
        return {PARENT_TAG: note.parent} | ({MLFLOW_PARENT_RUN_ID: parent.info.run_id} if parent else {})

    def _adopt_children(self, run_id: str, key: str) -> None:
        """Link runs that arrived before the one they belong to."""
        client = self._tracker.client
        for child in client.search_runs([self._tracker.experiment_id], f"tags.`{PARENT_TAG}` = '{key}'"):
            if child.data.tags.get(MLFLOW_PARENT_RUN_ID) != run_id:
                client.set_tag(child.info.run_id, MLFLOW_PARENT_RUN_ID, run_id)

    def _log_inputs(self, run_id: str, inputs: Mapping[str, ArtifactRef]) -> None:
        datasets = [(name, ref) for name, ref in inputs.items() if ref.kind == "data"]
        if datasets:
            self._tracker.client.log_inputs(run_id, [_dataset_input(name, ref, name) for name, ref in datasets])
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
        """Tell what came out and close the run."""
        client = self._tracker.client
        for name, text in note.texts.items():
            client.log_text(run_id, text, name)
        if note.output is not None:
            self._log_output(run_id, note.name, note.output)
        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in note.tags.items()])
        client.set_terminated(run_id, note.status, note.ended_ms)
        for run in self._all(note.key):
            # A server that hung may have made a run after we had given up on it and made another.
            if run.info.run_id != run_id:
                client.delete_run(run.info.run_id)
        return True

    def _log_output(self, run_id: str, stage: str, ref: ArtifactRef) -> None:
        """Point at the artifact a stage made; a policy becomes a logged model that points at it, too."""
        client = self._tracker.client
        tags = {"artifact.uri": ref.uri, "artifact.sha256": ref.sha256, MLFLOW_RUN_NOTE: in_markdown(ref)}
        if ref.kind == "data":
            client.log_inputs(run_id, [_dataset_input(stage, ref, "output")])
        elif ref.kind == "model":
            tags["logged_model"] = self._logged_model(run_id, stage, ref)
        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def _logged_model(self, run_id: str, stage: str, ref: ArtifactRef) -> str:
        client, experiment = self._tracker.client, self._tracker.experiment_id
        query = f"source_run_id = '{run_id}'"
        known = [
            m for m in client.search_logged_models([experiment], query) if m.tags.get("artifact.sha256") == ref.sha256
        ]
        tags = {"artifact.uri": ref.uri, "artifact.sha256": ref.sha256, "mlflow.model.isExternal": "true"}
        model = (
            known[0]
            if known
            else client.create_logged_model(
                experiment, name=stage, source_run_id=run_id, tags=tags, model_type="policy"
            )
        )
        client.finalize_logged_model(model.model_id, "READY")
        return str(model.model_id)

    def deliver(self, note: RunNote) -> str:
        """All of a finished run's note; returns the run's id."""
        run_id = self.open(note)
        for line in note.lines:
            self.send(run_id, note, line)
        self.finish(run_id, note)
        return run_id


def _dataset_input(name: str, ref: ArtifactRef, context: str) -> DatasetInput:
    # MLflow keeps at most 36 characters of a digest; the whole one is in the run's tags.
    kind = "s3" if ref.uri.startswith("s3:") else "local"
    dataset = Dataset(name=name, digest=ref.sha256[:36], source_type=kind, source=json.dumps({"uri": ref.uri}))
    return DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, context)])


def in_markdown(ref: ArtifactRef) -> str:
    """An artifact for MLflow's description fields, with the command that shows its address and its whole lineage."""
    return f"`{ref.kind}/{ref.short}`\n\nSHA-256 `{ref.sha256}`\n\nLineage: `qwenlong artifacts show {ref.short}`"


class TrackedRun:
    """A run that is told to MLflow as it goes, and at its end to MLflow or to the outbox."""

    def __init__(self, tracker: Tracker, note: RunNote, outbox: Path) -> None:
        self.note = note
        self._tracker, self._runs, self._outbox = tracker, Runs(tracker), outbox
        self._run_id: str | None = None
        self._unsent = False

    def run_id(self) -> str | None:
        """The run's id; ``None`` while MLflow is away."""
        if self._run_id is None:
            self._run_id = self._tracker.attempt(self._runs.open, self.note)
        return self._run_id

    def send(self, line: Mapping[str, Any]) -> bool:
        """Send one step line; ``True`` once it arrived."""
        run_id = self.run_id()
        sent = run_id is not None and bool(self._tracker.attempt(self._runs.send, run_id, self.note, line))
        self._unsent = not sent
        return sent

    def finish(
        self,
        status: Status,
        *,
        lines: tuple[dict[str, Any], ...] = (),
        output: ArtifactRef | None = None,
        texts: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str | None:
        """Close the run.

        Args:
            lines: all its step lines; those that :meth:`send` has brought over are not sent again.

        Returns:
            The run's id; ``None`` if MLflow did not take all, which then waits in the outbox.
        """
        ended = {"status": status, "ended_ms": int(time.time() * 1000), "output": output, "texts": dict(texts or {})}
        note = self.note.model_copy(update={**ended, "lines": lines, "tags": self.note.tags | dict(tags or {})})
        run_id = self.run_id()
        if run_id is not None and not self._unsent and self._tracker.attempt(self._runs.finish, run_id, note):
            return run_id
        put(self._outbox, note)
        logger.warning("MLflow has not got all of %s: kept in %s; `qwenlong sync` sends it", note.name, self._outbox)
        return run_id


def put(outbox: Path, note: RunNote) -> Path:
    """Write a note down; a reader sees it whole or not at all."""
    outbox.mkdir(parents=True, exist_ok=True)
    path = outbox / f"{note.started_ms}-{re.sub('[^A-Za-z0-9]', '', note.key)}.json"
    temporary = path.with_suffix(".tmp")
    with temporary.open("w") as stream:
        stream.write(note.model_dump_json())
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
    return path


@contextmanager
def _alone(outbox: Path) -> Iterator[bool]:
    """Whether no other process is delivering this outbox."""
    with (outbox / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def waiting(outbox: Path) -> list[Path]:
    """The notes that MLflow has not got, the oldest first."""
    return sorted(outbox.glob("*.json"))


def deliver_outbox(tracker: Tracker, outbox: Path) -> int:
    """Deliver what waits, the oldest first, until MLflow is away; returns how many went.

    A note that cannot be read, or that MLflow refuses for what is in it, is put aside as ``.refused``, so that it
    holds up no other.
    """
    if not waiting(outbox):
        return 0
    delivered, runs = 0, Runs(tracker)
    with _alone(outbox) as alone:
        for path in waiting(outbox) if alone else ():
            try:
                runs.deliver(RunNote.model_validate_json(path.read_text()))
            except (MlflowException, RequestException, ValidationError) as error:
                content = isinstance(error, ValidationError) or getattr(error, "error_code", "") == _REFUSED
                if not content:
                    logger.warning("MLflow at %s is away, %s waits: %s", tracker.settings.uri, path.name, error)
                    break
                path.rename(path.with_suffix(".refused"))
                logger.error("%s cannot be delivered and is put aside as .refused: %s", path.name, error)
            else:
                path.unlink()
                delivered += 1
    return delivered
