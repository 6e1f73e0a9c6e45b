"""What ``qwenlong artifacts`` knows of a store: what there is, how it scored, and what nothing needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from qwenlong.tasks.tracking.registry import needed_artifacts
from qwenlong_core.evaluation.results import read_evaluation
from qwenlong_core.report.tables import score_cell
from qwenlong_core.settings.running import TrackingSettings
from qwenlong_core.store.artifacts import ArtifactRef
from qwenlong_core.store.contents import Contents, read_contents
from qwenlong_core.store.garbage import Doomed, Rules, plan
from qwenlong_core.store.protocol import Store


def listed(contents: Contents) -> list[dict[str, Any]]:
    """One row per artifact, the newest first."""
    rows = []
    for ref in contents.refs:
        manifest, records = contents.manifests.get(ref.sha256), contents.records_of(ref.sha256)
        rows.append(
            {
                "kind": ref.kind,
                "sha256": ref.sha256,
                "stages": list(dict.fromkeys(record.stage for record in records)),
                "profiles": list(dict.fromkeys(record.profile for record in records)),
                "bytes": sum(entry.size for entry in manifest.files.values()) if manifest else None,
                "created_at": manifest.created_at if manifest else "",
                "uri": ref.uri,
            }
        )
    return sorted(rows, key=lambda row: str(row["created_at"]), reverse=True)


def collect(store: Store, tracking: TrackingSettings, rules: Rules, *, delete: bool) -> list[Doomed]:
    """Find what may be removed from a store, and remove it if ``delete`` is set.

    Raises:
        MlflowException, ValueError: the registry cannot be asked, so nothing is touched.
    """
    doomed = _plan(store, tracking, rules)
    if delete:
        # Records first, then a second look before the artifacts go: a run that found a record in between has
        # renewed it, and that keeps its artifact.
        for each in doomed:
            if each.stored.name.startswith("stages/"):
                store.remove(each.stored)
        for each in _plan(store, tracking, rules):
            store.remove(each.stored)
    return doomed


def _plan(store: Store, tracking: TrackingSettings, rules: Rules) -> list[Doomed]:
    contents = read_contents(store)
    return plan(contents.listing, contents.manifests, contents.records, needed_artifacts(tracking), rules)


def freed(doomed: Iterable[Doomed]) -> Mapping[tuple[str, str], tuple[int, int]]:
    """Number of files and their bytes, by artifact (or another folder of the store) and reason."""
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    for each in doomed:
        place = "/".join(each.stored.name.split("/")[:3][: each.stored.name.count("/")]), each.reason
        count, size = sums.get(place, (0, 0))
        sums[place] = (count + 1, size + each.stored.size)
    return sums


def scores_of(store: Store, contents: Contents, digest: str) -> list[dict[str, Any]]:
    """Overall accuracy, with its interval in words, of an evaluation, or of every evaluation of a model."""
    evaluations = [
        ref
        for ref in contents.refs
        if ref.kind == "evaluation" and digest in (ref.sha256, _parent(contents, ref, "model"))
    ]
    found = [(ref, read_evaluation(store.fetch(ref)).scores.overall) for ref in evaluations]
    return [
        {"sha256": ref.sha256, "accuracy": str(score_cell(overall)), "items": overall.items} for ref, overall in found
    ]


def _parent(contents: Contents, ref: ArtifactRef, name: str) -> str | None:
    manifest = contents.manifests.get(ref.sha256)
    return manifest.parents.get(name) if manifest else None
