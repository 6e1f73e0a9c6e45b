"""The flow ``promote``: put a registered version before the gate again.

The pipeline's last stages do the same; this flow is for a version that was registered earlier, say
after the margins in the settings were changed.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from prefect import flow, get_run_logger

from flows.gate import before_the_gate
from flows.pipeline_run import PipelineRun, StageResult, new_run_id
from qwenlong_core.artifacts import ArtifactError
from qwenlong_core.profiles import load_settings
from tasks.registry import CHALLENGER, baseline_for, by_alias
from tasks.specs import evaluate_stage
from tasks.stage import RunContext
from tasks.store import open_store


@flow(name="promote", flow_run_name="{profile}")
def promote(profile: str = "local", overrides: list[str] | None = None) -> dict[str, Any]:
    """Decide whether the registry's ``challenger`` becomes ``champion``, and carry it out.

    Raises:
        ArtifactError: nothing is registered or prepared yet.
    """
    settings = load_settings(profile, overrides or ())
    store = open_store(settings)
    version = by_alias(settings.tracking, CHALLENGER)
    data, base = store.latest("prepare", settings.profile), store.latest("base", settings.profile)
    if version is None or data is None or base is None:
        raise ArtifactError(f"promote: no challenger is registered for profile {profile!r} yet: run the pipeline first")
    # Asked for by name: the decision is made now, also where an earlier one was rolled back.
    run = PipelineRun(settings, RunContext(settings=settings, run_id=new_run_id()), refresh="promote")
    baseline = baseline_for(settings.tracking, version)
    models = {"challenger": version.model, "champion": baseline.model if baseline else base.ref}
    rows = StageResult(name="prepare", ref=data.ref, how="kept")

    def evaluate(role: str) -> StageResult:
        model = StageResult(name=role, ref=models[role], how="kept")
        return run.stage(evaluate_stage(settings, role), {"model": model, "data": rows})

    decision = before_the_gate(run, models, {role: partial(evaluate, role) for role in models}, rows)
    outcome = run.carry_out(decision, version, baseline)
    get_run_logger().info("promotion: %s", outcome)
    return {"version": version.version, "promotion": outcome}
