"""The flow ``rollback``: restore the champion from before the last promotion."""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger

from qwenlong.tasks.store import open_store
from qwenlong.tasks.tracking.champion import roll_back
from qwenlong_core.settings.profiles import load_settings


@flow(name="rollback", flow_run_name="{profile}: {reason}")
def rollback(reason: str, profile: str = "local", overrides: list[str] | None = None) -> dict[str, Any]:
    """Return the registry's alias ``champion`` to the version that the alias ``previous`` names.

    It can be done once per promotion.

    Args:
        reason: why, in words; kept as a tag of the version that loses the alias.

    Raises:
        RollbackRefused: there is no previous champion, or the champion has changed in the meantime.
    """
    settings = load_settings(profile, overrides or ())
    move = roll_back(settings.tracking, open_store(settings), reason)
    get_run_logger().info("rollback: %s", move.words)
    return {"champion": move.version, "taken_out": move.leaving, "rollback": move.words, "reason": reason}
