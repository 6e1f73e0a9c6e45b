"""A run that was killed after its stage was recorded, and before it had tidied up: the next one does."""

from __future__ import annotations

from pathlib import Path

from test_checkpoints_in_store import TRAINING, checkpoint

from qwenlong.tasks.checkpoints import CheckpointPublisher, stored_checkpoints
from qwenlong.tasks.results import remember
from qwenlong.tasks.specs import sft_stage
from qwenlong.tasks.stage import RunContext, execute_stage, stage_fingerprint
from qwenlong.tasks.store import open_store
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.store.artifacts import ArtifactRef, describe

INPUTS = {
    name: ArtifactRef(kind=name, uri=f"file:///nowhere/{name}", sha256=digit * 64)
    for name, digit in (("model", "1"), ("data", "2"))
}


def test_a_recorded_stage_is_adopted_and_what_it_left_goes(tmp_path: Path) -> None:
    folders = [f"storage.{name}={tmp_path}/{name}" for name in ("uri", "work_dir", "runs_dir")]
    settings = load_settings("smoke", folders)
    spec, store = sft_stage(settings), open_store(settings)
    key = stage_fingerprint(spec, INPUTS)
    work = tmp_path / f"work_dir/sft-{key[:16]}"
    training = TRAINING.model_copy(update={"key": key})
    checkpoint(work, 1)
    CheckpointPublisher(work, store, training, print).publish_newest()
    assert len(stored_checkpoints(store, training)) == 1
    ref = store.publish(
        work / "output", describe(work / "output", "model", parents={}, settings_digest="", code_digest="")
    )
    remember(store, spec, key, ref, profile="smoke", mlflow_run_id=None)

    context = RunContext(settings=settings, run_id="test")
    outcome = execute_stage(spec, INPUTS, context, forced=False, log=print, progress=print)
    assert (outcome.how, outcome.ref) == ("adopted", ref)
    assert not stored_checkpoints(store, training) and not list((tmp_path / "work_dir").iterdir())
