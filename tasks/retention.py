"""The store keeps the two newest checkpoints of a training, and none of one that is done.

A training deletes only checkpoints that its own records named, and only if no other record names them: an artifact
without a record may be one that another machine is about to record.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from qwenlong_core.store.files import MANIFEST
from qwenlong_core.store.protocol import Store, Stored

KIND = "checkpoint"
_RECORD = re.compile(rf"stages/({KIND}-[^/]+)/([^/.][^/]*)\.json")


def drop(store: Store, digests: set[str], records: frozenset[str] = frozenset()) -> None:
    """Delete checkpoints from a store.

    Args:
        digests: of the checkpoints; one that another record names is kept.
        records: names, in the store's listing, of records that are deleted first.
    """
    listing = store.listing()
    for stored in listing:
        if stored.name in records:
            store.remove(stored)
    unneeded = digests - _named(store, [stored for stored in listing if stored.name not in records])
    # The manifest first: without it the rest is no artifact, so nobody takes half of one for whole.
    for stored in sorted(_files(listing, unneeded), key=lambda stored: not stored.name.endswith(f"/{MANIFEST}")):
        store.remove(stored)


def _named(store: Store, listing: list[Stored]) -> set[str]:
    """Digests of all checkpoints that a record names."""
    places = filter(None, (_RECORD.fullmatch(stored.name) for stored in listing))
    records = (store.lookup(place[1], place[2]) for place in places)
    return {record.ref.sha256 for record in records if record is not None}


def _files(listing: list[Stored], digests: set[str]) -> Iterator[Stored]:
    for stored in listing:
        match stored.name.split("/"):
            case ["artifacts", kind, digest, *_] if kind == KIND and digest in digests:
                yield stored
