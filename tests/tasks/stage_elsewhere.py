"""The waiting side of a pool's stage: ``python stage_elsewhere.py HOME`` has the smoke profile's base made there.

With ``training`` behind it, base and data are made here and SFT there, and who loses its worker waits for another.
"""

from __future__ import annotations

import sys

from prefect import flow

from qwenlong.flows.pipeline_run import PipelineRun
from qwenlong.tasks.elsewhere import run_elsewhere
from qwenlong.tasks.interruptions import Try
from qwenlong.tasks.specs import StageSpec, base_stage, prepare_stage, sft_stage
from qwenlong.tasks.stage import RunContext
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.settings.tree import Settings

RETRIES = ("execution.retries=1", "execution.retry_delay_seconds=0", "launch.cpu_threads=1", "sft.save_steps=20")
POOL = ("execution.deployments={sft='stage/gpu'}", "execution.workers_here=true", "notify.to=['$OPS_HOOK']")


def given(home: str, *more: str) -> tuple[Settings, StageSpec]:
    folders = [f"storage.{name}={home}/{name}" for name in ("uri", "work_dir", "runs_dir")]
    settings = load_settings("smoke", [*folders, f"tracking.uri=sqlite:///{home}/mlflow.db", *more])
    return settings, base_stage(settings)


@flow
def waiting(home: str) -> str:
    settings, spec = given(home)
    run_elsewhere("stage/gpu", spec, {}, RunContext(settings=settings, run_id="test"), False, Try())
    return "completed"


@flow
def training(home: str) -> str:
    settings, _ = given(home, *RETRIES, *POOL)
    run = PipelineRun(settings, RunContext(settings=settings, run_id="test"))
    base = run.stage(base_stage(settings), {})
    data = run.stage(prepare_stage(settings), {"base": base})
    return run.stage(sft_stage(settings), {"model": base, "data": data}).how


if __name__ == "__main__":
    print(training(sys.argv[1]) if sys.argv[2:] else waiting(sys.argv[1]))
