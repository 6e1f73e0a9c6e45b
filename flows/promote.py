"""The flow ``promote``: let the gate decide again on a registered version.

The pipeline ends with the same decision; this flow is for a version that was registered earlier, for example after
the margins in the settings have changed.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from prefect import flow, get_run_logger

from qwenlong.flows.failure_notice import tell_of_failure
from qwenlong.flows.form import NO_OVERRIDES, Overrides, Profile
from qwenlong.flows.gate import run_gate
from qwenlong.flows.pipeline_run import PipelineRun, StageResult, new_run_id
from qwenlong.flows.run_pages import flow_run_tag, in_mlflow, mlflow_description, name_flow_run
from qwenlong.tasks.notice import require_places
from qwenlong.tasks.specs import evaluate_stage
from qwenlong.tasks.stage import RunContext
from qwenlong.tasks.store import open_store
from qwenlong.tasks.tracking.registry import CHALLENGER, RegisteredVersion, baseline_for, by_alias
from qwenlong.tasks.tracking.runs import RunNote
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.store.artifacts import ArtifactError, ArtifactRef


@flow(name="promote", flow_run_name="{profile}", on_failure=[tell_of_failure], on_crashed=[tell_of_failure])
def promote(profile: Profile = "local", overrides: Overrides = NO_OVERRIDES) -> dict[str, Any]:
    """Decide whether the registry's ``challenger`` becomes ``champion``, and carry it out.

    Raises:
        ArtifactError: nothing is registered or prepared yet.
    """
    settings = load_settings(profile, overrides or ())
    require_places(settings.notify.to)
    store = open_store(settings)
    version = by_alias(settings.tracking, CHALLENGER)
    data, base = store.latest("prepare", settings.profile), store.latest("base", settings.profile)
    if version is None or data is None or base is None:
        raise ArtifactError(f"promote: no challenger is registered for profile {profile!r} yet: run the pipeline first")
    run_id = new_run_id()
    title = f"promote {settings.profile} version {version.version} {run_id}"
    name_flow_run(title)
    # The flow was asked for by name, so the decision is made anew, even if an earlier one was rolled back.
    run = PipelineRun(settings, RunContext(settings=settings, run_id=run_id), refresh="promote")
    tags = {"profile": settings.profile, "pipeline": run_id} | flow_run_tag()
    note = RunNote(key=run_id, name=title, params=settings.promotion.model_dump(mode="json"), tags=tags)
    with in_mlflow(run, note) as tracked:
        outcome = _decide(run, version, data.ref, base.ref)
    tracked.finish("FINISHED", tags=run.cached_tags() | {"promotion": outcome} | mlflow_description(outcome))
    get_run_logger().info("promotion: %s", outcome)
    return {"version": version.version, "promotion": outcome}


def _decide(run: PipelineRun, version: RegisteredVersion, data: ArtifactRef, base: ArtifactRef) -> str:
    """Evaluate both models, run the gate and carry out its decision; returns what was done, in words."""
    baseline = baseline_for(run.settings.tracking, version)
    models = {"challenger": version.model, "champion": baseline.model if baseline else base}
    rows = StageResult(name="prepare", ref=data, how="kept")

    def evaluate(role: str) -> StageResult:
        model = StageResult(name=role, ref=models[role], how="kept")
        return run.stage(evaluate_stage(run.settings, role), {"model": model, "data": rows})

    decision = run_gate(run, models, {role: partial(evaluate, role) for role in models}, rows)
    return run.carry_out(decision, version, baseline)
