"""Open the artifact store that the settings name."""

from __future__ import annotations

from pathlib import Path

from qwenlong_core.settings.tree import Settings
from qwenlong_core.store.local import LocalStore
from qwenlong_core.store.protocol import Store


def open_store(settings: Settings) -> Store:
    """The artifact store of the settings: a folder, or a bucket behind a local read cache."""
    storage = settings.storage
    if not storage.uri.startswith("s3://"):
        return LocalStore(Path(storage.uri))
    from qwenlong.tasks.s3.store import s3_store  # boto3 takes a second to load, and a folder needs none

    return s3_store(storage)
