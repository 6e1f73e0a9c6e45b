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
        self._path = Path(folder) / "verdicts.sqlite"
        with self._connect() as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, equal INTEGER, reply TEXT)")

    def get(self, keys: list[str]) -> dict[str, bool]:
        """The stored verdicts among ``keys``."""
        found: dict[str, bool] = {}
        with self._connect() as connection:
            for start in range(0, len(keys), 500):
                part = keys[start : start + 500]
                marks = ",".join("?" * len(part))
                rows = connection.execute(f"SELECT key, equal FROM verdicts WHERE key IN ({marks})", part)
                found.update((key, bool(equal)) for key, equal in rows)
        return found

    def put(self, key: str, equal: bool, reply: str) -> None:
        """Store one verdict with the judge's words."""
        with self._connect() as connection:
            connection.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?)", (key, int(equal), reply))

    def _connect(self) -> sqlite3.Connection:
        return _Closing(self._path, timeout=30)


class _Closing(sqlite3.Connection):
    """A connection whose ``with`` block commits and closes (SQLite's own only commits)."""

    def __exit__(self, *exc: object) -> None:  # type: ignore[override]
        super().__exit__(*exc)  # type: ignore[arg-type]
        self.close()
