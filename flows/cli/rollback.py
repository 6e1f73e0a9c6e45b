"""``qwenlong rollback``: restore the previous champion."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from qwenlong.flows.cli.common import Json, Overrides, Profile, one_clear_message
from qwenlong.flows.cli.environment import prefect_api, quiet_logs
from qwenlong_core.settings.profiles import load_settings


def rollback(
    reason: Annotated[str, typer.Option(help="Why, in words; recorded on the version that loses the alias.")],
    profile: Profile = "local",
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Undo the last promotion: the registry's alias `champion` returns to the version before it."""
    with one_clear_message():
        done = _run_flow(reason, profile, overrides or [])
    typer.echo(json.dumps(done) if as_json else done["rollback"])


def _run_flow(reason: str, profile: str, overrides: list[str]) -> dict[str, Any]:
    from qwenlong.flows.rollback import rollback as rollback_flow

    load_settings(profile, overrides)  # a mistake is reported before a Prefect server is started
    with prefect_api():
        quiet_logs()
        done: dict[str, Any] = rollback_flow(reason, profile, overrides)
    return done
