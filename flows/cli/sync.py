"""``qwenlong sync``: MLflow gets what it could not take while it was away."""

from __future__ import annotations

import json

import typer

from qwenlong.tasks.tracking.client import Tracker
from qwenlong.tasks.tracking.outbox import deliver_outbox, outbox_of, waiting
from qwenlong_core.settings.tree import Settings


def sync_outbox(settings: Settings, *, as_json: bool) -> None:
    """Deliver this machine's outbox.

    Raises:
        ConnectionError: MLflow did not take all of it.
    """
    outbox = outbox_of(settings)
    delivered = deliver_outbox(Tracker(settings.tracking), outbox)
    left = len(waiting(outbox))
    if left:
        raise ConnectionError(
            f"{delivered} runs delivered, {left} wait in {outbox}: tracking.uri={settings.tracking.uri!r} does not take"
            " them, or another process is delivering; run the same command again"
        )
    typer.echo(
        json.dumps({"delivered": delivered, "left": left}) if as_json else f"{delivered} runs delivered to MLflow"
    )
