"""Which files of a store may be deleted: a plan made from its listing, which ``tasks/inventory.py`` carries out.

Kept whatever their age: the newest record of each stage and profile with its artifact, what the caller pins (registry
versions, inputs of running stages), all claims, and every parent of these. Anything unfinished that is younger than
the grace time is kept too, since somebody may be at work on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from itertools import groupby
from typing import NamedTuple

from qwenlong_core.store.artifacts import Manifest
from qwenlong_core.store.files import MANIFEST
from qwenlong_core.store.protocol import StageRecord, Stored


class Doomed(NamedTuple):
    """Something to be deleted, and why."""

    stored: Stored
    reason: str


class Rules(NamedTuple):
    """How old something must be before it is deleted."""

    now: datetime
    keep: timedelta
    """Age of finished artifacts and of records."""
    grace: timedelta
    """Age of unfinished ones."""

    def old(self, when: datetime) -> bool:
        """Whether something finished at that time may be deleted."""
        return self.now - when > max(self.keep, self.grace)

    def abandoned(self, when: datetime) -> bool:
        """Whether nobody can still be at work on something unfinished that was last written at that time."""
        return self.now - when > self.grace


def kept_records(records: Iterable[StageRecord], rules: Rules) -> list[StageRecord]:
    """The newest record of each stage and profile, and all young ones."""
    newest: dict[tuple[str, str], StageRecord] = {}
    young = []
    for record in sorted(records, key=lambda record: record.created_at):
        newest[record.stage, record.profile] = record
        if not rules.old(datetime.fromisoformat(record.created_at)):
            young.append(record)
    return [*newest.values(), *young]


def with_parents(digests: Iterable[str], manifests: Mapping[str, Manifest]) -> set[str]:
    """Digests and all their ancestors."""
    alive: set[str] = set()
    queue = list(digests)
    while queue:
        digest = queue.pop()
        if digest not in alive:
            alive.add(digest)
            queue += manifests[digest].parents.values() if digest in manifests else ()
    return alive


def alive_in(
    listing: Iterable[Stored],
    manifests: Mapping[str, Manifest],
    records: Iterable[StageRecord],
    pinned: Iterable[str],
    rules: Rules,
) -> set[str]:
    """Digests of all artifacts that are kept."""
    recorded = {record.ref.sha256 for record in kept_records(records, rules)}
    young = {_place(s)[2] for s in listing if _place(s)[3:] == (MANIFEST,) and not rules.old(s.modified)}
    return with_parents({*recorded, *young, *pinned}, manifests)


def plan(
    listing: list[Stored],
    manifests: Mapping[str, Manifest],
    records: Mapping[str, StageRecord | None],
    pinned: Iterable[str],
    rules: Rules,
) -> list[Doomed]:
    """Everything that may be deleted, with manifests before the files they name.

    Args:
        manifests: by digest, those that can be read.
        records: by name in the listing; ``None`` where the record's artifact is gone.
        pinned: digests that are needed for other reasons.
    """
    # Manifests first: if the deletion is interrupted, what is left is no artifact, rather than one with missing files.
    alive = alive_in(listing, manifests, [record for record in records.values() if record], pinned, rules)
    doomed = [*_unfinished(listing, rules), *_records(listing, records, alive, rules)]
    doomed += _artifacts(listing, manifests, alive, rules)
    return sorted(doomed, key=lambda each: (not each.stored.name.endswith(f"/{MANIFEST}"), each.stored.name))


def _place(stored: Stored) -> tuple[str, ...]:
    """The parts of a name: ``artifacts``, kind, digest, and the path in the artifact, as far as they go."""
    return (
        tuple(stored.name.split("/", 3))
        if stored.upload is None and stored.name.startswith("artifacts/")
        else ("",) * 3
    )


def _temporary(part: str) -> bool:
    return part.startswith((".tmp-", ".bad-", ".probe"))


def _unfinished(listing: list[Stored], rules: Rules) -> Iterator[Doomed]:
    for stored in listing:
        if stored.upload is not None:
            if rules.abandoned(stored.modified):
                yield Doomed(stored, "an upload that was never completed")
        elif any(map(_temporary, stored.name.split("/"))) and rules.abandoned(stored.modified):
            yield Doomed(stored, "left by a writer that was interrupted")


def _records(
    listing: list[Stored], records: Mapping[str, StageRecord | None], alive: set[str], rules: Rules
) -> Iterator[Doomed]:
    for stored in listing:
        if stored.name in records and rules.old(stored.modified):
            record = records[stored.name]
            if record is None:
                yield Doomed(stored, "a record whose artifact is gone")
            elif record.ref.sha256 not in alive:
                yield Doomed(stored, "an old record that nothing needs")


def _artifacts(
    listing: list[Stored], manifests: Mapping[str, Manifest], alive: set[str], rules: Rules
) -> Iterator[Doomed]:
    ours = [
        s for s in listing if s.upload is None and len(_place(s)) == 4 and not any(map(_temporary, s.name.split("/")))
    ]
    for (_, _, digest), group in groupby(sorted(ours, key=lambda s: s.name), key=lambda s: _place(s)[:3]):
        files = list(group)
        manifest = manifests.get(digest)
        if digest in alive:
            yield from _strays(files, manifest, rules)
        elif manifest is None:
            # All files must be old: the writer of a large artifact may be at work on the last one.
            if all(rules.abandoned(stored.modified) for stored in files):
                yield from (Doomed(stored, "no manifest: never finished") for stored in files)
        else:
            yield from (Doomed(stored, "an artifact that nothing needs") for stored in files)


def _strays(files: list[Stored], manifest: Manifest | None, rules: Rules) -> Iterator[Doomed]:
    """Files of a kept artifact that its manifest does not name, such as the notes of a second writer."""
    if manifest is None:
        return
    notes = {f".notes/{entry.sha256}/{name}" for name, entry in manifest.files.items()}
    named = {MANIFEST, *manifest.files, *notes}
    for stored in files:
        if _place(stored)[3] not in named and rules.abandoned(stored.modified):
            yield Doomed(stored, "not a file of its artifact")
