"""The flow ``stage``: one stage on another work pool, started by the pipeline's task.

It is deployed on the GPU pool as ``stage/gpu``; settings send stages there with
``execution.deployments = {grpo = "stage/gpu"}``. It uses the same store as the pipeline, which finds the result there
by its fingerprint.
"""

from __future__ import annotations

import socket

from prefect import flow, get_run_logger

from qwenlong.tasks.elsewhere import beating
from qwenlong.tasks.specs import StageSpec
from qwenlong.tasks.stage import RunContext, TakenUp, execute_stage, stage_fingerprint
from qwenlong_core.store.artifacts import ArtifactRef


@flow(name="stage", flow_run_name="{spec.name}")
def stage_flow(
    spec: StageSpec,
    inputs: dict[str, ArtifactRef],
    context: RunContext,
    forced: bool,
    fingerprint: str,
    taken_up: TakenUp,
) -> str:
    """Run one stage here and return the digest of its artifact.

    Args:
        fingerprint: the stage's, where the pipeline runs.
        taken_up: what earlier tries came to.

    Raises:
        ValueError: it has another one here, so the pipeline would neither find its result nor its checkpoints.
    """
    if (here := stage_fingerprint(spec, inputs)) != fingerprint:
        raise ValueError(
            f"{spec.name} has the fingerprint {fingerprint[:16]} where its pipeline runs, but {here[:16]} on"
            f" {socket.gethostname()}: their code or libraries differ, so the pipeline would not find the result;"
            " install the same commit and the same lock file on both"
        )
    log = get_run_logger().info
    with beating(spec.name) as progress:
        outcome = execute_stage(spec, inputs, context, forced=forced, log=log, progress=progress, taken_up=taken_up)
    return outcome.ref.sha256
