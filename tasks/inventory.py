"""What ``qwenlong artifacts ls`` and ``gc`` do, on every store: list what there is, and collect what nothing needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from qwenlong.tasks.tracking.registry import needed_artifacts
from qwenlong_core.settings.running import TrackingSettings
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


def freed(doomed: Iterable[Doomed]) -> Mapping[str, tuple[int, int]]:
    """Number of files and their bytes, by reason."""
    sums: dict[str, tuple[int, int]] = {}
    for each in doomed:
        count, size = sums.get(each.reason, (0, 0))
        sums[each.reason] = (count + 1, size + each.stored.size)
    return sums
