"""The hook of the flows that tells people of a run that failed, also of one whose process was killed."""

from __future__ import annotations

from typing import Any

from prefect import Flow, State, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.logging import get_logger
from prefect.settings import PREFECT_UI_URL

from qwenlong.tasks.notice import send
from qwenlong_core.settings.profiles import SettingsError, load_settings


def tell_of_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Send why a run ended. Prefect calls it where the flow fails, and a worker where the flow's process dies."""
    given = flow_run.parameters
    try:
        settings = load_settings(given["profile"], given.get("overrides") or (), values=given.get("settings"))
    except (KeyError, SettingsError) as error:
        get_logger(__name__).warning("no notice of this failure, since the run has no usable settings: %s", error)
        return
    if not settings.notify.to:
        return
    with get_client(sync_client=True) as client:
        name = client.read_flow_run(flow_run.id).name  # the flow has named itself since it began
    page = f"{PREFECT_UI_URL.value()}/runs/flow-run/{flow_run.id}"
    send(settings.notify.to, f"qwenlong: {name}: {state.name}", f"{state.message}\n\n{page}")
