"""Before the gate: everything the decision rests on is checked, evaluated, and handed to the promote stage.

Whatever is wrong with an artifact or keeps an evaluation from being finished ends in a refusal with
its reason, never in an exception that someone might retry until it passes.
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


def before_the_gate(
    run: PipelineRun, models: dict[str, ArtifactRef], evaluate: dict[str, Evaluate], rows: StageResult
) -> StageResult:
    """The decision of the promote stage.

    Args:
        models: of the roles ``challenger`` and ``champion`` (the base model where there is no champion).
        evaluate: gives the evaluation of each role on ``rows``, the prepared data.
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
    verified = {} if faults else {name.removeprefix("the "): ref.sha256 for name, ref in artifacts.items()}
    return run.stage_on(promote_stage(run.settings, verified, faults), {} if faults else inputs, forced=forced)


def _evaluations(evaluate: dict[str, Evaluate]) -> tuple[dict[str, StageResult], list[str]]:
    found: dict[str, StageResult] = {}
    faults = []
    for role, make in evaluate.items():
        try:
            found[role] = make()
        except (ProcessFailed, StageRefused, ArtifactError) as error:
            faults.append(f"the evaluation of the {role} could not be finished: {reason_of(error)}")
    return found, faults
