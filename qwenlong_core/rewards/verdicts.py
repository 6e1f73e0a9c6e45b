"""Verdicts of the judge on disk, so that no question is paid for twice.

A SQLite file in a folder; safe for several processes. Only true verdicts are ever stored: a fault of
the endpoint is not a fact about the answer.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path


def cache_key(*parts: str | float | int | None) -> str:
    """SHA-256 over the parts, each kept apart from the next."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=True).encode()).hexdigest()


class VerdictCache:
    """``get`` and ``put`` of yes/no verdicts by key."""

    def __init__(self, folder: str) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        # Autocommit in WAL mode: a verdict is there for other processes at once, without waiting for the
        # disk; after a power cut the last few are asked again.
        self._connection = sqlite3.connect(
            Path(folder) / "verdicts.sqlite", timeout=30, isolation_level=None, check_same_thread=False
        )
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, equal INTEGER, reply TEXT)"
        )

    def get(self, keys: list[str]) -> dict[str, bool]:
        """The stored verdicts among ``keys``."""
        found: dict[str, bool] = {}
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            marks = ",".join("?" * len(part))
            rows = self._connection.execute(f"SELECT key, equal FROM verdicts WHERE key IN ({marks})", part)
            found.update((key, bool(equal)) for key, equal in rows)
        return found

    def put(self, key: str, equal: bool, reply: str) -> None:
        """Store one verdict with the judge's words."""
        self._connection.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?)", (key, int(equal), reply))
