"""Run the gate: check everything that the decision rests on, have both models evaluated, run the promote stage.

A damaged artifact or an evaluation that cannot be finished becomes a refusal with its reason, never an exception:
an exception would be retried, perhaps until it passes.
"""

from __future__ import annotations

from collections.abc import Callable

from qwenlong.flows.pipeline_run import PipelineRun, StageResult
from qwenlong.tasks.lineage import find_faults, training_data
from qwenlong.tasks.process import ProcessFailed, StageRefused, reason_of
from qwenlong.tasks.specs import promote_stage
from qwenlong.tasks.store import open_store
from qwenlong_core.store.artifacts import ArtifactError, ArtifactRef

Evaluate = Callable[[], StageResult]


def run_gate(
    run: PipelineRun, models: dict[str, ArtifactRef], evaluate: dict[str, Evaluate], rows: StageResult
) -> StageResult:
    """The promote stage's decision between two models.

    Args:
        models: the model of each role, ``challenger`` and ``champion`` (the base model if there is no champion).
        evaluate: by role, evaluates the model on ``rows``, or finds its evaluation.
        rows: the prepared data.
    """
    store = open_store(run.settings)
    artifacts = {f"the model of the {role}": ref for role, ref in models.items()} | {"the evaluated data": rows.ref}
    inputs = {"rows": rows.ref}
    faults, forced = find_faults(store, artifacts), False
    if not faults:
        try:
            trained = training_data(store, models["challenger"])
            inputs |= {f"trained-{number}": ref for number, ref in enumerate(trained, 1)}
        except ArtifactError as error:
            faults.append(str(error))
        found, missing = _evaluations(evaluate)
        forced = any(result.forced for result in found.values())
        inputs |= {role: result.ref for role, result in found.items()}
        new = {f"the evaluation of the {role}": result.ref for role, result in found.items()}
        new |= {f"training data {name}": ref for name, ref in inputs.items() if name.startswith("trained-")}
        faults += [*missing, *find_faults(store, new)]
        artifacts |= new
    # The digests are part of the stage's job, so its decision is cached for these very artifacts.
    verified = {} if faults else {name.removeprefix("the "): ref.sha256 for name, ref in artifacts.items()}
    return run.stage_from_refs(promote_stage(run.settings, verified, faults), {} if faults else inputs, forced=forced)


def _evaluations(evaluate: dict[str, Evaluate]) -> tuple[dict[str, StageResult], list[str]]:
    """The evaluation of each role, and why the missing ones are missing."""
    found: dict[str, StageResult] = {}
    faults = []
    for role, make in evaluate.items():
        try:
            found[role] = make()
        except (ProcessFailed, StageRefused, ArtifactError) as error:
            faults.append(f"the evaluation of the {role} could not be finished: {reason_of(error)}")
    return found, faults
