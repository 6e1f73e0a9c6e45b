"""Checkpoints of a running training are sent to the store, and fetched on a machine that has none.

While the training runs, a thread looks for newly sealed checkpoints and sends them; the training never waits for it.
The checkpoint of the last step stays here unless the stage fails: its model is published at once.
A checkpoint artifact holds ``checkpoints/checkpoint-N/...`` and the step lines ``output/*.jsonl``, which is everything
that the stage needs to resume in an empty work folder.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from qwenlong.tasks.retention import KIND, drop
from qwenlong.tasks.tracking.metrics import read_lines
from qwenlong_core.settings.base import Block
from qwenlong_core.stage_main import OUTPUT
from qwenlong_core.store.artifacts import ArtifactError, ArtifactRef, describe, now
from qwenlong_core.store.files import MANIFEST, METRICS, read_seal
from qwenlong_core.store.protocol import StageRecord, Store

CHECKPOINTS = "checkpoints"
_SLOTS = 2
"""Checkpoints of one training that the store keeps. The older one is there in case the newest is damaged."""
_POLL_SECONDS = 2.0
STORE_FAILED = (ArtifactError, OSError, ClientError, BotoCoreError)
"""What a store raises that is away, full or damaged."""


class Training(Block):
    """The training that checkpoints belong to."""

    stage: str
    key: str
    """The stage's fingerprint. For a forced stage it also holds the pipeline run, which starts from scratch."""
    profile: str
    parents: dict[str, str]
    """Digests of the inputs."""
    settings_digest: str
    code_digest: str


def step_of(checkpoint: Path) -> int:
    """The optimizer step in a checkpoint's name."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _newest_sealed(folder: Path) -> Path | None:
    sealed = [path.parent for path in folder.glob(f"checkpoint-*/{MANIFEST}")]
    return max(sealed, key=step_of, default=None)


def _slot(training: Training, slot: int) -> tuple[str, str]:
    """Stage and fingerprint of a checkpoint's record."""
    return f"{KIND}-{training.stage}", f"{training.key}.{slot}"


def stored_checkpoints(store: Store, training: Training) -> list[StageRecord]:
    """The records of a training's checkpoints in the store, the newest step first."""
    found = [store.lookup(*_slot(training, slot)) for slot in range(_SLOTS)]
    return sorted(filter(None, found), key=lambda record: -int(record.settings["step"]))


def drop_finished(store: Store, training: Training, log: Callable[[str], None]) -> None:
    """Delete a training's checkpoints from the store. If the store fails meanwhile, that is logged."""
    places = [_slot(training, slot) for slot in range(_SLOTS)]
    try:
        digests = {record.ref.sha256 for record in stored_checkpoints(store, training)}
        drop(store, digests, frozenset(f"stages/{stage}/{fingerprint}.json" for stage, fingerprint in places))
    except STORE_FAILED as error:
        log(
            f"{training.stage} is done, but its checkpoints are still in the store; `qwenlong artifacts gc` deletes "
            f"them: {type(error).__name__}: {error}"
        )


def restore(work: Path, store: Store, training: Training, log: Callable[[str], None]) -> None:
    """Copy the store's newest whole checkpoint into ``work``, unless ``work`` has a newer one."""
    local = _newest_sealed(work / CHECKPOINTS)
    for record in stored_checkpoints(store, training):
        step = int(record.settings["step"])
        if local is not None and step_of(local) >= step:
            return
        try:
            folder = store.fetch(record.ref)
        except ArtifactError as error:
            log(f"{training.stage}: the store's checkpoint of step {step} cannot be used, trying an older one: {error}")
            continue
        # Step lines first: if the copy is interrupted, there is never a checkpoint without its lines.
        if (folder / OUTPUT).is_dir():
            shutil.copytree(folder / OUTPUT, work / OUTPUT, dirs_exist_ok=True)
        for checkpoint in (folder / CHECKPOINTS).iterdir():
            _copy_whole(checkpoint, work / CHECKPOINTS / checkpoint.name)
        log(f"{training.stage}: fetched the checkpoint of step {step} from the store")
        return


def _copy_whole(checkpoint: Path, target: Path) -> None:
    """Copy a checkpoint under another name, then rename it: half a copy must never stand under its name."""
    staging = target.with_name(f".copy-of-{target.name}")
    for remains in (staging, target):
        shutil.rmtree(remains, ignore_errors=True)
    shutil.copytree(checkpoint, staging)
    staging.rename(target)


class CheckpointPublisher:
    """A context in which a thread sends the sealed checkpoints of ``work`` to the store."""

    def __init__(self, work: Path, store: Store, training: Training, log: Callable[[str], None]) -> None:
        self._work, self._store, self._training, self._log = work, store, training, log
        known = stored_checkpoints(store, training)
        self._said = ""
        self._done = max((int(record.settings["step"]) for record in known), default=-1)
        self._stop = threading.Event()
        # Prefect keeps its settings and the current task run in context variables, which a new thread lacks:
        # without them the log's lines would go to another server.
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._follow,), name="checkpoint-publisher", daemon=True
        )

    def __enter__(self) -> CheckpointPublisher:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        if kind is not None:
            # What the training saved when it was stopped. One that has finished needs no checkpoint any more.
            self.publish_newest()

    def _follow(self) -> None:
        while not self._stop.wait(_POLL_SECONDS):
            if not self._is_finished():
                self.publish_newest()

    def _is_finished(self) -> bool:
        """Whether the training has taken its last step, so that its model follows."""
        lines = read_lines(self._work / OUTPUT / METRICS)
        return bool(lines) and lines[-1]["step"] == lines[-1]["total_steps"]

    def publish_newest(self) -> None:
        """Send the newest sealed checkpoint, if the store does not have it yet.

        A failure is logged and the checkpoint is tried again later, since the training does not depend on it.
        """
        checkpoint = _newest_sealed(self._work / CHECKPOINTS)
        if checkpoint is None or step_of(checkpoint) <= self._done:
            return
        staging = self._work / ".publishing"
        try:
            if _snapshot(self._work, checkpoint, staging):
                self._publish(staging, checkpoint.name)
        # ValueError: the checkpoint's manifest cannot be read.
        except (*STORE_FAILED, ValueError) as error:
            # It is tried again every two seconds, but said once.
            if (said := f"{checkpoint.name} is not in the store yet: {type(error).__name__}: {error}") != self._said:
                self._said = said
                self._log(said)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _publish(self, folder: Path, name: str) -> None:
        training, place = self._training, f"{CHECKPOINTS}/{name}"
        # The training has just hashed these, each process its own: a large checkpoint takes minutes to read.
        sealed = {f"{place}/{file}": entry for file, entry in read_seal(folder / place).files.items()}
        manifest = describe(
            folder,
            KIND,
            parents=training.parents,
            settings_digest=training.settings_digest,
            code_digest=training.code_digest,
            known=sealed,
        )
        step = int(name.removeprefix("checkpoint-"))
        self._remember(self._store.publish(folder, manifest), step)
        self._done = step
        self._log(f"{training.stage}: checkpoint of step {step} is in the store")

    def _remember(self, ref: ArtifactRef, step: int) -> None:
        """Record the checkpoint in place of the oldest one, which is deleted."""
        known = {slot: self._store.lookup(*_slot(self._training, slot)) for slot in range(_SLOTS)}
        oldest = min(known, key=lambda slot: _step_in(known[slot]))
        stage, fingerprint = _slot(self._training, oldest)
        record = StageRecord(
            stage=stage,
            fingerprint=fingerprint,
            ref=ref,
            profile=self._training.profile,
            settings={"step": step},
            created_at=now(),
        )
        self._store.record(record)
        if replaced := known[oldest]:
            drop(self._store, {replaced.ref.sha256})


def _step_in(record: StageRecord | None) -> int:
    return int(record.settings["step"]) if record else -1


def _snapshot(work: Path, checkpoint: Path, staging: Path) -> bool:
    """Link a checkpoint's files and copy the step lines so far; ``False`` if it was pruned meanwhile."""
    shutil.rmtree(staging, ignore_errors=True)
    target = staging / CHECKPOINTS / checkpoint.name
    try:
        # Hard links: the training may prune the originals while they are sent, and nothing is copied.
        for name in (*read_seal(checkpoint).files, MANIFEST):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            os.link(checkpoint / name, target / name)
    except FileNotFoundError:
        return False
    (staging / OUTPUT).mkdir()
    for path in (work / OUTPUT).glob("*.jsonl"):
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(path, staging / OUTPUT / path.name)
    return True
