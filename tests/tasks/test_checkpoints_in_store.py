"""A training that is killed with its machine resumes on another from the store, and ends the same to the bit."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path

import psutil
import pytest

from qwenlong.tasks.checkpoints import CheckpointPublisher, Training, drop_finished, restore, stored_checkpoints
from qwenlong.tasks.s3.store import S3Store
from qwenlong.tasks.specs import base_stage, prepare_stage
from qwenlong.tasks.stage import RunContext, execute_stage
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.settings.running import S3Settings, TrackingSettings
from qwenlong_core.settings.tree import Settings
from qwenlong_core.store.artifacts import ArtifactRef
from qwenlong_core.store.files import list_files
from qwenlong_core.store.fingerprint import ROOT
from qwenlong_core.store.local import LocalStore
from qwenlong_core.store.protocol import StageRecord, Store, refs_in
from qwenlong_core.training.checkpoints import damage, newest_complete, prune, seal

TRAINING = Training(stage="sft", key="k" * 64, profile="p", parents={}, settings_digest="s", code_digest="c")


def checkpoint(work: Path, step: int, content: str = "weights", total: int = 100) -> Path:
    folder = work / "checkpoints" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text(f"{content} {step}")
    (work / "output").mkdir(exist_ok=True)
    with (work / "output/metrics.jsonl").open("a") as lines:
        lines.write(json.dumps({"step": step, "total_steps": total}) + "\n")
    seal(folder, list_files(folder))  # last, as a training does
    return folder


def steps(records: list[StageRecord]) -> list[int]:
    return [record.settings["step"] for record in records]


def assert_the_two_newest_come_back(store: Store, tmp_path: Path) -> None:
    work, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    publisher = CheckpointPublisher(work, store, TRAINING, print)
    for step in (1, 2, 3):
        checkpoint(work, step)
        publisher.publish_newest()
    publisher.publish_newest()
    assert steps(stored_checkpoints(store, TRAINING)) == [3, 2]
    assert len(refs_in(store.listing(), store.uri)) == 2, "the first one was superseded"
    restore(elsewhere, store, TRAINING, print)
    restored = newest_complete(elsewhere / "checkpoints")
    assert restored is not None and restored.name == "checkpoint-3" and damage(restored) is None
    assert (elsewhere / "output/metrics.jsonl").read_text() == (work / "output/metrics.jsonl").read_text()


def test_the_two_newest_are_kept_and_come_back_whole_with_their_lines(tmp_path):
    assert_the_two_newest_come_back(LocalStore(tmp_path / "store"), tmp_path)


def test_they_come_back_from_a_bucket(tmp_path, bucket, s3_server):
    s3 = S3Settings(endpoint_url=s3_server.endpoint)
    assert_the_two_newest_come_back(S3Store(f"s3://{bucket}/project", s3, tmp_path / "cache"), tmp_path)


def test_a_checkpoint_that_another_training_names_outlives_this_one(tmp_path):
    """A stage that is forced makes the same checkpoints as the one before, under records of its own."""
    store, forced = LocalStore(tmp_path / "store"), TRAINING.model_copy(update={"key": "forced"})
    for training, newest in ((TRAINING, 3), (forced, 2)):
        work = tmp_path / training.key[:6]
        publisher = CheckpointPublisher(work, store, training, print)
        for step in range(1, newest + 1):
            checkpoint(work, step)
            publisher.publish_newest()
    assert steps(stored_checkpoints(store, TRAINING)) == [3, 2] and steps(stored_checkpoints(store, forced)) == [2, 1]
    drop_finished(store, TRAINING, print)
    assert steps(stored_checkpoints(store, TRAINING)) == [] and steps(stored_checkpoints(store, forced)) == [2, 1]
    assert len(refs_in(store.listing(), store.uri)) == 2
    drop_finished(store, forced, print)
    assert store.listing() == []


def test_a_store_that_fails_keeps_the_checkpoints_and_says_how_they_go(tmp_path, monkeypatch):
    store, said = LocalStore(tmp_path / "store"), []
    checkpoint(tmp_path / "work", 1)
    CheckpointPublisher(tmp_path / "work", store, TRAINING, print).publish_newest()

    def full(_stored: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(store, "remove", full)
    drop_finished(store, TRAINING, said.append)
    assert "`qwenlong artifacts gc` deletes them" in said[0] and "Read-only" in said[0]
    assert steps(stored_checkpoints(store, TRAINING)) == [1]


def test_an_unsealed_one_is_left_and_a_newer_local_one_stays(tmp_path):
    store, work = LocalStore(tmp_path / "store"), tmp_path / "work"
    (checkpoint(work, 1) / "manifest.json").unlink()
    CheckpointPublisher(work, store, TRAINING, print).publish_newest()
    assert stored_checkpoints(store, TRAINING) == []
    checkpoint(work, 2)
    CheckpointPublisher(work, store, TRAINING, print).publish_newest()
    checkpoint(work, 3, content="newer")
    restore(work, store, TRAINING, print)
    assert newest_complete(work / "checkpoints").name == "checkpoint-3"


def test_a_damaged_one_in_the_store_is_passed_over(tmp_path):
    store, work = LocalStore(tmp_path / "store"), tmp_path / "work"
    publisher = CheckpointPublisher(work, store, TRAINING, print)
    for step in (1, 2):
        checkpoint(work, step)
        publisher.publish_newest()
    newest = stored_checkpoints(store, TRAINING)[0].ref
    (tmp_path / "store/artifacts/checkpoint" / newest.sha256 / "checkpoints/checkpoint-2/model.safetensors").write_text(
        "x"
    )
    restore(tmp_path / "new", LocalStore(tmp_path / "store"), TRAINING, print)
    assert newest_complete(tmp_path / "new/checkpoints").name == "checkpoint-1"


def test_a_copy_from_the_store_that_is_cut_short_is_made_again(tmp_path, monkeypatch):
    store, new = LocalStore(tmp_path / "store"), tmp_path / "new"
    checkpoint(tmp_path / "work", 1)
    CheckpointPublisher(tmp_path / "work", store, TRAINING, print).publish_newest()
    copy = shutil.copyfile

    def full(source: os.PathLike[str], target: str, **options: bool) -> None:
        if os.fspath(source).endswith("model.safetensors"):
            raise OSError(errno.ENOSPC, "No space left on device")
        copy(source, target, **options)

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        restore(new, store, TRAINING, print)
    monkeypatch.setattr(shutil, "copyfile", copy)
    restore(new, store, TRAINING, print)
    restored = newest_complete(new / "checkpoints")
    assert restored is not None and restored.name == "checkpoint-1"


def test_pruning_while_publishing_leaves_nothing_half(tmp_path):
    """A trainer saves and prunes as fast as it can, with a publisher beside it: everything in the store is whole."""
    store, work = LocalStore(tmp_path / "store"), tmp_path / "work"
    publisher = CheckpointPublisher(work, store, TRAINING, print)
    over = threading.Event()

    def publish() -> None:
        while not over.is_set():
            publisher.publish_newest()

    thread = threading.Thread(target=publish)
    thread.start()
    for step in range(1, 61):
        checkpoint(work, step)
        prune(work / "checkpoints")
    over.set()
    thread.join()
    publisher.publish_newest()
    published = list((tmp_path / "store/artifacts/checkpoint").glob("[!.]*"))
    assert len(published) == 2 and steps(stored_checkpoints(store, TRAINING))[0] == 60
    for folder in published:
        [inside] = (folder / "checkpoints").iterdir()
        assert damage(inside) is None


def test_a_store_that_fails_does_not_end_the_training(tmp_path):
    work, said = tmp_path / "work", []
    checkpoint(work, 1)
    (tmp_path / "store").write_text("a file where the folder should be")
    CheckpointPublisher(work, LocalStore(tmp_path / "store"), TRAINING, said.append).publish_newest()
    assert "checkpoint-1 is not in the store yet" in said[0] and not (work / ".publishing").exists()


def test_its_lines_are_logged_where_the_task_logs(tmp_path, monkeypatch):
    """Prefect finds its server in context variables; a thread without them would log to another server."""
    monkeypatch.setattr("qwenlong.tasks.checkpoints._POLL_SECONDS", 0.01)
    server: ContextVar[str] = ContextVar("server", default="another")
    token, said, logged = server.set("ours"), [], threading.Event()

    def log(line: str) -> None:
        said.append((server.get(), line))
        logged.set()

    checkpoint(tmp_path / "work", 1)
    with CheckpointPublisher(tmp_path / "work", LocalStore(tmp_path / "store"), TRAINING, log):
        assert logged.wait(30)
    server.reset(token)
    assert said == [("ours", "sft: checkpoint of step 1 is in the store")]


@pytest.mark.parametrize("fails", [False, True])
def test_that_of_the_last_step_is_sent_only_if_the_stage_fails(tmp_path, monkeypatch, fails):
    """A training that has finished publishes its model; a checkpoint is three times as large."""
    monkeypatch.setattr("qwenlong.tasks.checkpoints._POLL_SECONDS", 0.01)
    store, sent = LocalStore(tmp_path / "store"), threading.Event()
    with (
        pytest.raises(OSError) if fails else contextlib.nullcontext(),
        CheckpointPublisher(tmp_path / "work", store, TRAINING, lambda line: sent.set()),
    ):
        checkpoint(tmp_path / "work", 1, total=2)
        assert sent.wait(30)
        checkpoint(tmp_path / "work", 2, total=2)
        time.sleep(0.5)  # fifty looks
        assert steps(stored_checkpoints(store, TRAINING)) == [1]
        if fails:
            raise OSError("the model could not be written")
    assert steps(stored_checkpoints(store, TRAINING)) == ([2, 1] if fails else [1])


PROGRAM = """
import json, sys
from qwenlong_core.store.artifacts import ArtifactRef
from qwenlong_core.settings.tree import Settings
from qwenlong.tasks.specs import sft_stage
from qwenlong.tasks.stage import RunContext, execute_stage
settings = Settings.model_validate_json(open(sys.argv[1]).read())
inputs = {name: ArtifactRef.model_validate(ref) for name, ref in json.loads(sys.argv[2]).items()}
context = RunContext(settings=settings, run_id="test")
forced, say = sys.argv[3] == "forced", lambda line: print(line, flush=True)
outcome = execute_stage(sft_stage(settings), inputs, context, forced=forced, log=say, progress=lambda line: None)
print("DIGEST", outcome.ref.sha256)
"""


def _run(
    home: Path, settings: Settings, inputs: dict[str, ArtifactRef], how: str, until: Callable[[str], bool]
) -> list[str]:
    """Run the stage in a process group of its own and kill -9 the group at the first line that ``until`` takes."""
    (home / "settings.json").write_text(settings.model_dump_json())
    given = json.dumps({name: ref.model_dump() for name, ref in inputs.items()})
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(home / "settings.json"), given, how],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip())
        if until(line):
            tree = psutil.Process(process.pid).children(recursive=True)
            os.killpg(process.pid, signal.SIGKILL)
            psutil.wait_procs(tree, timeout=20)
    process.wait()
    return lines


def killed_and_resumed(home: Path, storage: dict[str, object]) -> tuple[str, str]:
    """The story on one store: killed with kill -9, work folder deleted, resumed. Returns the last lines, with the
    digest of the result, of the resumed run and of one left alone."""
    small = ["sft.save_steps=3", "sft.epochs=3", "launch.cpu_threads=1"]
    settings = load_settings(str(ROOT / "infra/profiles/smoke.toml"), small)
    folders = {"work_dir": str(home / "work"), "runs_dir": str(home / "state/runs"), "cache_dir": str(home / "cache")}
    settings = settings.model_copy(
        update={
            "storage": type(settings.storage).model_validate(folders | storage),
            "tracking": TrackingSettings(uri=f"sqlite:///{home}/mlflow.db"),
        }
    )
    context = RunContext(settings=settings, run_id="test")
    make = {"forced": False, "log": print, "progress": lambda line: None}
    base = execute_stage(base_stage(settings), {}, context, **make).ref
    data = execute_stage(prepare_stage(settings), {"base": base}, context, **make).ref
    inputs = {"model": base, "data": data}
    lines = _run(home, settings, inputs, "plain", lambda line: "is in the store" in line)
    assert any("is in the store" in line for line in lines)
    assert not any(line.startswith("DIGEST") for line in lines)
    shutil.rmtree(home / "work")
    shutil.rmtree(home / "cache", ignore_errors=True)
    resumed = _run(home, settings, inputs, "plain", lambda line: False)
    assert any("from the store" in line for line in resumed), resumed
    assert any("from checkpoint-" in line for line in resumed), resumed
    undisturbed = _run(home, settings, inputs, "forced", lambda line: False)
    assert not any("from the store" in line for line in undisturbed)
    return resumed[-1], undisturbed[-1]


@pytest.mark.timeout(900)
def test_killed_with_its_disk_and_resumed_from_a_folder(tmp_path):
    resumed, undisturbed = killed_and_resumed(tmp_path, {"uri": str(tmp_path / "store")})
    assert resumed.startswith("DIGEST ")
    assert resumed == undisturbed


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_with_its_disk_and_resumed_from_a_bucket(tmp_path, bucket, s3_server):
    bucket_of_its_own = {"uri": f"s3://{bucket}/project", "s3": {"endpoint_url": s3_server.endpoint}}
    resumed, undisturbed = killed_and_resumed(tmp_path, bucket_of_its_own)
    assert resumed.startswith("DIGEST ")
    assert resumed == undisturbed
