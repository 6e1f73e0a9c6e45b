"""What ``qwenlong artifacts`` does: list, trace back, verify, collect. Works on every store."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from qwenlong.tasks.tracking.registry import by_alias, by_version, needed_artifacts
from qwenlong_core.settings.running import TrackingSettings
from qwenlong_core.store.artifacts import ArtifactError, ArtifactRef, Damaged, Manifest
from qwenlong_core.store.garbage import Doomed, Rules, plan
from qwenlong_core.store.protocol import StageRecord, Store, Stored, refs_in

_AT_ONCE = 8


class Contents(NamedTuple):
    """Everything a store knows, read once."""

    listing: list[Stored]
    refs: list[ArtifactRef]
    manifests: dict[str, Manifest]
    """By digest; one that cannot be read is left out."""
    records: dict[str, StageRecord | None]
    """By name in the listing; ``None`` where the artifact is gone."""

    def of(self, digest: str) -> list[StageRecord]:
        """The records of an artifact, the newest first."""
        found = [record for record in self.records.values() if record and record.ref.sha256 == digest]
        return sorted(found, key=lambda record: record.created_at, reverse=True)


def read_contents(store: Store) -> Contents:
    """List a store and read its manifests and records."""
    listing = store.listing()
    refs = refs_in(listing, store.uri)
    names = [stored.name for stored in listing if re.fullmatch(r"stages/[^/]+/[^/.][^/]*\.json", stored.name)]
    places = [name.removesuffix(".json").split("/") for name in names]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        manifests = pool.map(store.manifest, refs)
        records = pool.map(lambda place: store.lookup(place[1], place[2]), places)
        readable = {ref.sha256: manifest for ref, manifest in zip(refs, manifests) if manifest}
        return Contents(listing, refs, readable, dict(zip(names, records)))


def listed(contents: Contents) -> list[dict[str, Any]]:
    """One row per artifact, the newest first."""
    rows = []
    for ref in contents.refs:
        manifest, records = contents.manifests.get(ref.sha256), contents.of(ref.sha256)
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


def resolve(text: str, refs: Iterable[ArtifactRef], tracking: TrackingSettings) -> ArtifactRef:
    """The artifact that a person means.

    Args:
        text: the start of a digest, ``KIND/DIGEST``, an artifact's address, ``models:/NAME@ALIAS`` or
            ``models:/NAME/VERSION``.

    Raises:
        ArtifactError: none or several fit.
    """
    if text.startswith("models:/"):
        text = _registered(text, tracking).sha256
    *_, kind, start = ("", *text.rstrip("/").split("/"))
    fits = [ref for ref in refs if ref.sha256.startswith(start) and kind in ("", ref.kind)]
    if len(fits) == 1:
        return fits[0]
    if not fits:
        raise ArtifactError(f"no artifact {text!r} in this store: `qwenlong artifacts ls` shows what there is")
    shown = ", ".join(f"{ref.kind}/{ref.short}" for ref in fits[:5])
    raise ArtifactError(f"{text!r} means {len(fits)} artifacts ({shown} ...): give more of the digest")


def _registered(text: str, tracking: TrackingSettings) -> ArtifactRef:
    match = re.fullmatch(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>\d+))", text)
    if match is None:
        raise ArtifactError(f"{text!r}: write models:/NAME@ALIAS or models:/NAME/VERSION")
    named = tracking.model_copy(update={"registered_model": match["name"]})
    found = by_alias(named, match["alias"]) if match["alias"] else by_version(named, match["version"])
    if found is None:
        raise ArtifactError(f"{text!r} is not in the registry at tracking.uri={tracking.uri!r}")
    return found.model


def lineage(digest: str, contents: Contents, name: str = "") -> dict[str, Any]:
    """An artifact with its settings, code and MLflow run, and below it all its parents likewise."""
    manifest = contents.manifests.get(digest)
    if manifest is None:
        return {"input": name, "sha256": digest, "missing": True}
    record = next(iter(contents.of(digest)), None)
    parents = [lineage(parent, contents, name) for name, parent in manifest.parents.items()]
    return {
        "input": name,
        "kind": manifest.kind,
        "sha256": digest,
        "created_at": manifest.created_at,
        "settings_digest": manifest.settings_digest,
        "code_digest": manifest.code_digest,
        "stage": record and record.stage,
        "profile": record and record.profile,
        "mlflow_run_id": record and record.mlflow_run_id,
        "settings": record and record.settings,
        "parents": parents,
    }


def verify_all(store: Store, refs: Iterable[ArtifactRef]) -> dict[str, list[str]]:
    """Read every byte; the damaged files by ``KIND/DIGEST``, an empty list where all is well."""
    return {f"{ref.kind}/{ref.sha256}": _damage(store, ref) for ref in refs}


def _damage(store: Store, ref: ArtifactRef) -> list[str]:
    try:
        return store.damage(ref)
    except Damaged as error:
        return [str(error)]


def collect(store: Store, tracking: TrackingSettings, rules: Rules, *, delete: bool) -> list[Doomed]:
    """What may go from a store; ``delete`` makes it go.

    Records go first and everything is looked at anew before artifacts go, so that a run that finds a
    record just then has renewed it, which keeps its artifact.

    Raises:
        MlflowException, ValueError: the registry cannot be asked, so nothing is touched.
    """
    doomed = _plan(store, tracking, rules)
    if delete:
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
    """Count and bytes by reason."""
    sums: dict[str, tuple[int, int]] = {}
    for each in doomed:
        count, size = sums.get(each.reason, (0, 0))
        sums[each.reason] = (count + 1, size + each.stored.size)
    return sums
