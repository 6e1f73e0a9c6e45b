"""What a fault cost: the time since the newest checkpoint that the store has of the try that it ended."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from test_checkpoints_in_store import checkpoint

from qwenlong.tasks.checkpoints import CheckpointPublisher, stored_checkpoints
from qwenlong.tasks.interruptions import Interruption, Try, note, taken_up, told_of_interruptions
from qwenlong.tasks.process import ProcessFailed
from qwenlong.tasks.specs import StageSpec, report_stage, sft_stage
from qwenlong.tasks.stage import RunContext, TakenUp, training_of
from qwenlong.tasks.store import open_store
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.store.artifacts import ArtifactRef

INPUTS = {"model": ArtifactRef(kind="model", uri="file:///nowhere/model", sha256="1" * 64)}
FAULT = ProcessFailed("`python -m ...` ended with status -9; its last lines:\n  step 7")


class Run:
    """A pipeline run whose SFT has checkpoints in the store."""

    def __init__(self, home: Path) -> None:
        folders = [f"storage.{name}={home}/{name}" for name in ("uri", "work_dir", "runs_dir")]
        settings = load_settings("smoke", folders)
        self.context, self.spec = RunContext(settings=settings, run_id="r1"), sft_stage(settings)
        self.store, self.work = open_store(settings), home / "work_dir/sft"
        self.training = training_of(self.spec, INPUTS, self.context, False)

    def publish(self, step: int) -> datetime:
        """Returns when the store got it."""
        checkpoint(self.work, step)
        CheckpointPublisher(self.work, self.store, self.training, print).publish_newest()
        return datetime.fromisoformat(stored_checkpoints(self.store, self.training)[0].created_at)

    def stopped(self, this: Try, spec: StageSpec | None = None) -> Interruption:
        return note(spec or self.spec, INPUTS, self.context, False, this, FAULT)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_lost_is_the_time_from_the_newest_checkpoint_to_the_last_sign_of_life(run: Run) -> None:
    begin = datetime.now(UTC) - timedelta(minutes=10)
    run.publish(4)
    published = run.publish(8)
    found = run.stopped(Try(began=begin, heard=published + timedelta(seconds=90)))
    assert found.lost_seconds == pytest.approx(90, abs=0.01)
    assert str(found) == "1.5 minutes of its work are lost, those since the checkpoint of step 8"
    assert found.reason == "step 7"


def test_a_checkpoint_of_an_earlier_try_does_not_count_and_one_that_never_ran_lost_nothing(run: Run) -> None:
    published = run.publish(8)
    begin = published + timedelta(minutes=30)
    found = run.stopped(Try(began=begin, heard=begin + timedelta(minutes=2)))
    assert found.lost_seconds == pytest.approx(120) and found.since == "this try began"
    waiting = Try(began=begin, heard=begin)
    waiting.waits()
    assert run.stopped(waiting).lost_seconds == 0


def test_without_a_worker_the_end_is_now(run: Run) -> None:
    found = run.stopped(Try(began=datetime.now(UTC) - timedelta(minutes=3)))
    assert 180 <= found.lost_seconds < 240


def test_the_run_counts_them_by_stage_and_its_report_is_told_without_being_another_one(run: Run) -> None:
    begin = datetime.now(UTC)
    assert taken_up(run.context) == {} and TakenUp().tags() == {}
    for minutes in (1, 2):
        run.stopped(Try(began=begin, heard=begin + timedelta(minutes=minutes)))
    run.stopped(Try(began=begin, heard=begin), run.spec.model_copy(update={"name": "grpo-1"}))
    assert taken_up(run.context) == {"sft": TakenUp(times=2, lost_minutes=3.0), "grpo-1": TakenUp(times=1)}
    assert taken_up(run.context)["sft"].tags() == {"taken_up_again": "2", "lost_minutes": "3.00"}
    report = report_stage(run.context.settings)
    told = told_of_interruptions(report, run.context)
    assert told.job["taken_up"] == {"sft": 2, "grpo-1": 1} and told.job["lost_minutes"] == {"sft": 3.0, "grpo-1": 0.0}
    assert told.deciding_job == report.deciding_job
    other = run.context.model_copy(update={"run_id": "r2"})
    assert taken_up(other) == {}


def test_a_folder_that_cannot_be_written_and_a_store_that_is_away_hide_no_fault(run: Run, caplog, monkeypatch) -> None:
    (run.work.parent.parent / "runs_dir").write_text("a file")

    def away(*_: object) -> None:
        raise ConnectionError("the bucket does not answer")

    monkeypatch.setattr(type(run.store), "lookup", away)
    begin = datetime.now(UTC)
    assert run.stopped(Try(began=begin, heard=begin + timedelta(minutes=1))).lost_seconds == 60
    assert "the bucket does not answer" in caplog.text and "not counted in interruptions.jsonl" in caplog.text
