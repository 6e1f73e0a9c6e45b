"""Everything a store knows, read once: its listing, its manifests and its records."""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from qwenlong_core.store.artifacts import ArtifactRef, Damaged, Manifest
from qwenlong_core.store.protocol import StageRecord, Store, Stored, refs_in

_AT_ONCE = 8
"""Requests in flight; a bucket answers each in some tens of milliseconds."""


class Contents(NamedTuple):
    """What :func:`read_contents` found."""

    listing: list[Stored]
    refs: list[ArtifactRef]
    manifests: dict[str, Manifest]
    """By digest; one that cannot be read is left out."""
    records: dict[str, StageRecord | None]
    """By name in the listing; ``None`` where the artifact is gone."""

    def records_of(self, digest: str) -> list[StageRecord]:
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


def verify_all(store: Store, refs: Iterable[ArtifactRef]) -> dict[str, list[str]]:
    """Read every byte of these artifacts.

    Returns:
        The damaged files by ``KIND/DIGEST``; an empty list for a whole artifact.
    """
    return {f"{ref.kind}/{ref.sha256}": _damage(store, ref) for ref in refs}


def _damage(store: Store, ref: ArtifactRef) -> list[str]:
    try:
        return store.damage(ref)
    except Damaged as error:
        return [str(error)]
