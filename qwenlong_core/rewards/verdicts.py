"""The judge's verdicts on disk, so that no question is paid for twice.

The cache is a SQLite file that several processes can use at once. It stores verdicts only, never failures: a failure
of the endpoint says nothing about the answer.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path


def cache_key(*parts: str | float | int | None) -> str:
    """SHA-256 over the parts; encoding them as JSON keeps neighbouring parts apart."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=True).encode()).hexdigest()


class VerdictCache:
    """Yes/no verdicts by key."""

    def __init__(self, folder: str) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        # Autocommit in WAL mode: other processes see a verdict at once, and no write waits for the disk. After a power
        # cut the last few verdicts are lost and asked again.
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
        # In parts of 500: older SQLite builds allow at most 999 variables in a statement.
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            marks = ",".join("?" * len(part))
            rows = self._connection.execute(f"SELECT key, equal FROM verdicts WHERE key IN ({marks})", part)
            found.update((key, bool(equal)) for key, equal in rows)
        return found

    def put(self, key: str, equal: bool, reply: str) -> None:
        """Store one verdict together with the judge's reply."""
        self._connection.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?)", (key, int(equal), reply))
