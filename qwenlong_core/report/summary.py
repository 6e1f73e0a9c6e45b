"""The top of the report and its lineage: what was measured, when, of which model, and with what outcome."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwenlong_core.evaluation.results import Evaluation
from qwenlong_core.evaluation.scores import Bootstrap
from qwenlong_core.jobs import REGISTRATION
from qwenlong_core.report.picture import Origin
from qwenlong_core.report.tables import Interval, baseline_of, gain_over, score_cell
from qwenlong_core.store.artifacts import Manifest
from qwenlong_core.store.files import JOB, MANIFEST

_REGISTER = "register"
_BASE = "base model"


def manifests_of(inputs: Mapping[str, Path]) -> dict[str, Manifest]:
    """The manifests of the inputs that are artifacts; a plain folder has none."""
    paths = {name: folder / MANIFEST for name, folder in inputs.items()}
    return {name: Manifest.model_validate_json(path.read_text()) for name, path in paths.items() if path.is_file()}


def facts_of(
    inputs: Mapping[str, Path],
    evaluations: Mapping[str, Evaluation],
    decision: Mapping[str, Any] | None,
    bootstrap: Bootstrap,
) -> list[tuple[str, str]]:
    """Name and value of what a reader asks first. What is not known is left out."""
    manifests = manifests_of(inputs)
    moments = [one.created_at for one in manifests.values()]
    version = registered_version(inputs.get(_REGISTER))
    facts = {
        "Made": f"{max(moments)[:16].replace('T', ' ')} UTC" if moments else "",
        "Base model": _base_model(inputs),
        "Registry version": version or "",
        "Verdict": decision["verdict"] if decision else "",
        **_scores(evaluations, bootstrap),
    }
    return [(name, value) for name, value in facts.items() if value]


def _scores(evaluations: Mapping[str, Evaluation], bootstrap: Bootstrap) -> dict[str, str]:
    if not evaluations:
        return {}
    names = list(evaluations)
    first, last = baseline_of(names), names[-1]
    facts = {f"Score of {last}": str(score_cell(evaluations[last].scores.overall))}
    if first != last:
        gain = gain_over(evaluations[last], evaluations[first], bootstrap)
        facts[f"Gain over {first}"] = str(Interval(gain, signed=True))
    return facts


def _base_model(inputs: Mapping[str, Path]) -> str:
    """The name in the settings of the first stage that has one."""
    for folder in inputs.values():
        path = folder / JOB
        job = json.loads(path.read_text()) if path.is_file() else {}
        if "model" in job:
            return str(job["model"]["name"])
    return ""


def registered_version(folder: Path | None) -> str | None:
    """``qwenlong version 3``, from the folder of a registration."""
    path = folder / REGISTRATION if folder else None
    if path is None or not path.is_file():
        return None
    found = json.loads(path.read_text())
    return f"{found['name']} version {found['version']}"


def origins_of(inputs: Mapping[str, Path]) -> list[Origin]:
    """The artifacts among the inputs and what they were made from, the oldest first."""
    manifests = manifests_of(inputs)
    known = {one.digest: name for name, one in manifests.items()}
    origins: dict[str, Origin] = {}
    for one in manifests.values():
        for name, digest in one.parents.items():
            if digest not in known:
                # A model that none of the stages made is where they began; an evaluation alone cannot tell.
                called = _BASE if name == "base" or (name, one.kind) == ("model", "model") else name
                called = _BASE if digest in origins and origins[digest].name == _BASE else called
                origins[digest] = Origin(name=called, kind="data" if name == "data" else "model", sha256=digest)
    for name, one in sorted(manifests.items(), key=lambda item: item[1].created_at):
        version = registered_version(inputs[name]) if name == _REGISTER else None
        origins[one.digest] = Origin(
            name=version or ("prepare" if name == "data" else name),
            kind=one.kind,
            sha256=one.digest,
            parents=one.parents,
            note=one.created_at[:16].replace("T", " "),
        )
    return list(origins.values())
