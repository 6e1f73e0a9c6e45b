"""The flow and command ``rollback``: take the champion out of service, for the one before it."""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger

from qwenlong.flows.cli.environment import prefect_api
from qwenlong.flows.cli.run import quieten
from qwenlong.tasks.store import open_store
from qwenlong.tasks.tracking.champion import roll_back
from qwenlong_core.settings.profiles import load_settings


@flow(name="rollback", flow_run_name="{profile}: {reason}")
def rollback(reason: str, profile: str = "local", overrides: list[str] | None = None) -> dict[str, Any]:
    """Give the registry's alias ``champion`` back to the version that ``previous`` names, once.

    Args:
        reason: why, in words; kept as a tag of the version that is taken out.

    Raises:
        RollbackRefused: there is no previous champion, or the champion changed meanwhile.
    """
    settings = load_settings(profile, overrides or ())
    move = roll_back(settings.tracking, open_store(settings), reason)
    get_run_logger().info("rollback: %s", move.words)
    return {"champion": move.version, "taken_out": move.leaving, "rollback": move.words, "reason": reason}


def run_rollback(reason: str, profile: str, overrides: list[str]) -> dict[str, Any]:
    """Run the flow, on a Prefect API of its own where none is up."""
    load_settings(profile, overrides)
    with prefect_api():
        quieten()
        done: dict[str, Any] = rollback(reason, profile, overrides)
    return done
