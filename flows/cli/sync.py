"""``qwenlong sync``: deliver to MLflow what waits in the outbox."""

from __future__ import annotations

import json

import typer

from qwenlong.flows.cli.common import Json, Overrides, Profile, one_clear_message
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.settings.tree import Settings


def sync(profile: Profile = "local", overrides: Overrides = None, as_json: Json = False) -> None:
    """Send MLflow the runs that it could not take while it was away. Exit code 1 if any are waiting or were refused."""
    with one_clear_message():
        delivered = _deliver(load_settings(profile, overrides or ()))
    typer.echo(json.dumps({"delivered": delivered, "left": 0}) if as_json else f"{delivered} runs delivered to MLflow")


def _deliver(settings: Settings) -> int:
    """Deliver this machine's outbox; returns the number of runs delivered.

    Raises:
        ConnectionError: MLflow did not take all of them, now or before.
    """
    from qwenlong.tasks.tracking.client import Tracker
    from qwenlong.tasks.tracking.outbox import deliver_outbox, outbox_of, refused, waiting

    outbox = outbox_of(settings)
    delivered = deliver_outbox(Tracker(settings.tracking), outbox)
    left = len(waiting(outbox))
    if left:
        raise ConnectionError(
            f"{delivered} runs delivered, {left} still waiting in {outbox}: tracking.uri={settings.tracking.uri!r} does"
            " not take them, or another process is delivering them; run the same command again"
        )
    if aside := refused(outbox):
        raise ConnectionError(
            f"{delivered} runs delivered, {len(aside)} refused: MLflow does not take {', '.join(map(str, aside))}. Each"
            " is the JSON of a run: mend it and rename it to .json, or delete it"
        )
    return delivered
