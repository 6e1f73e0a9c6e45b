"""The waiting side of a pool's stage: ``python stage_elsewhere.py HOME`` has the smoke profile's base made there."""

from __future__ import annotations

import sys

from prefect import flow

from qwenlong.tasks.elsewhere import run_elsewhere
from qwenlong.tasks.specs import StageSpec, base_stage
from qwenlong.tasks.stage import RunContext
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.settings.tree import Settings


def given(home: str) -> tuple[Settings, StageSpec]:
    folders = [f"storage.{name}={home}/{name}" for name in ("uri", "work_dir", "runs_dir")]
    settings = load_settings("smoke", [*folders, f"tracking.uri=sqlite:///{home}/mlflow.db"])
    return settings, base_stage(settings)


@flow
def waiting(home: str) -> str:
    settings, spec = given(home)
    run_elsewhere("stage/gpu", spec, {}, RunContext(settings=settings, run_id="test"), False)
    return "completed"


if __name__ == "__main__":
    print(waiting(sys.argv[1]))
