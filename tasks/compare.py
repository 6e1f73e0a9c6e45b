"""What two models or evaluations of the store differ in: settings, data and code of every stage behind them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

from qwenlong.tasks.lineage import ancestor_tree
from qwenlong.tasks.references import BadReference, resolve_artifact
from qwenlong_core.evaluation.results import Evaluation, read_evaluation
from qwenlong_core.settings.running import TrackingSettings
from qwenlong_core.store.artifacts import ArtifactRef
from qwenlong_core.store.contents import Contents
from qwenlong_core.store.protocol import Store


class Side(NamedTuple):
    """One of the two."""

    ref: ArtifactRef
    """Its evaluation."""
    evaluation: Evaluation


class Change(NamedTuple):
    """One thing that differs between the two."""

    stage: str
    what: str
    """A setting (``grpo.learning_rate``), ``code``, or an input by name and kind (``data``)."""
    a: Any
    b: Any


def find_pair(store: Store, contents: Contents, tracking: TrackingSettings, a: str, b: str) -> tuple[Side, Side]:
    """The newest evaluations of both that hold the same items.

    Args:
        a: A model or an evaluation, as :mod:`qwenlong.tasks.references` reads it.
        b: The other one.

    Raises:
        BadReference: one is neither, was never evaluated, or the two share no items.
    """
    pairs = list(product(_evaluations(store, contents, tracking, a), _evaluations(store, contents, tracking, b)))
    for first, second in pairs:
        if _asked(first) == _asked(second):
            return first, second
    raise BadReference(f"{a} and {b} were never evaluated on the same items: `qwenlong eval` each on the same data")


def _asked(side: Side) -> tuple[str, frozenset[str]]:
    plan = side.evaluation.plan
    return plan.dataset_digest, frozenset(plan.items)


def _evaluations(store: Store, contents: Contents, tracking: TrackingSettings, given: str) -> list[Side]:
    ref = resolve_artifact(given, contents.refs, tracking)
    found = [
        each
        for each in contents.refs
        if each.kind == "evaluation" and each.sha256 in contents.manifests and ref.sha256 in _of(contents, each)
    ]
    if not found:
        raise BadReference(
            f"{given} is {ref.kind}/{ref.short}, which has no evaluation in the store: run `qwenlong eval`"
        )
    found.sort(key=lambda each: contents.manifests[each.sha256].created_at, reverse=True)
    return [Side(each, read_evaluation(store.fetch(each))) for each in found]


def _of(contents: Contents, evaluation: ArtifactRef) -> set[str]:
    return {evaluation.sha256, contents.manifests[evaluation.sha256].parents.get("model", "")}


def rows_of(contents: Contents, side: Side) -> ArtifactRef | None:
    """The data that an evaluation asked, if it is still there."""
    digest = contents.manifests[side.ref.sha256].parents.get("data")
    return next((ref for ref in contents.refs if ref.sha256 == digest), None)


def changes(contents: Contents, a: ArtifactRef, b: ArtifactRef) -> list[Change]:
    """What differs in the stages behind two artifacts, in the order of the older ones first."""
    first, second = (_stages(ancestor_tree(ref.sha256, contents)) for ref in (a, b))
    found: list[Change] = []
    for stage in dict.fromkeys([*first, *second]):
        found += _between(stage, first.get(stage, {}), second.get(stage, {}))
    return found


def _between(stage: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Change]:
    if not a or not b:
        yield Change(stage, "stage", "there" if a else "none", "there" if b else "none")
        return
    for what in dict.fromkeys([*a, *b]):
        if a.get(what) != b.get(what):
            yield Change(stage, what, a.get(what), b.get(what))


def _stages(node: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Facts of each stage behind an artifact: settings by dotted name, code and outside data; the base comes first."""
    stages: dict[str, dict[str, Any]] = {}
    for parent in node.get("parents", ()):
        for stage, facts in _stages(parent).items():
            stages.setdefault(stage, facts)
    if not node.get("missing"):
        name = node["stage"] or node["kind"]
        stages[name] = dict(_flat(node["settings"])) | {"code": node["code_digest"][:12]}
    return stages


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else key)
    elif name:
        yield name, value
