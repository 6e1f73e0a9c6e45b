"""What the page of a failed pipeline run says: how to go on from the stage that failed, in the form and by command."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import deployment, flow_run
from prefect.settings import PREFECT_UI_URL

from qwenlong.flows.form import stage_or_none
from qwenlong.flows.pipeline_run import PipelineRun
from qwenlong.tasks.process import reason_of
from qwenlong_core.settings.secrets import without_secrets


@contextmanager
def way_on(run: PipelineRun) -> Iterator[None]:
    """If the block fails, show on the flow run's page how to go on; the error goes on its way."""
    try:
        yield
    except Exception as error:
        try:
            _show(run, error)
        except Exception as trouble:  # such as Prefect being away: the run's own error says more
            get_run_logger().warning("the page on how to go on could not be made: %s", reason_of(trouble))
        raise


def _show(run: PipelineRun, error: Exception) -> None:
    command, form = command_of(flow_run.parameters), form_page(flow_run.parameters)
    get_run_logger().error("stopped at %s; to go on: %s", run.at, without_secrets(command))
    text = page_text(run.at, list(run.results), reason_of(error), (command, form))
    title = f"Stopped at {run.at}: how to go on"
    create_markdown_artifact(key="go-on", description=title, markdown=without_secrets(text))


def command_of(parameters: Mapping[str, Any]) -> str:
    """The console command with the parameters of a flow run."""
    settings = [f"{name}={_toml(value)}" for name, value in (parameters.get("settings") or {}).items()]
    words = ["qwenlong", "run", "--profile", parameters.get("profile", "local")]
    for override in (*settings, *(parameters.get("overrides") or ())):
        words += ["--set", override]
    for option, choice in (("--refresh", parameters.get("refresh")), ("--from", parameters.get("start"))):
        if choice is not None and (stage := stage_or_none(choice)):
            words += [option, stage]
    return shlex.join(words)


def _toml(value: Any) -> str:
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)


def form_page(parameters: Mapping[str, Any]) -> str | None:
    """Address of the deployment's form, filled in with these parameters; ``None`` for a run of no deployment."""
    if deployment.id is None:
        return None
    given = {name: value for name, value in parameters.items() if value not in (None, [], {})}
    return f"{PREFECT_UI_URL.value()}/deployments/deployment/{deployment.id}/run?parameters={quote(json.dumps(given))}"


def page_text(stage: str | None, finished: list[str], reason: str, ways: tuple[str, str | None]) -> str:
    """The page in Markdown.

    Args:
        stage: the stage that failed, or is still to come.
        finished: names of the stages that are done.
        reason: why it failed.
        ways: the console command, and the address of the form if there is one.
    """
    command, form = ways
    done = f"Finished before: {', '.join(finished)}. They are taken from the store." if finished else ""
    lines = [f"# Stopped at {stage}", "", f"> {reason}", "", done, ""]
    if form is not None:
        lines += [f"**In the form:** [run it again]({form}), then Submit.", ""]
    lines += ["**In a shell:**", "", f"    cd {shlex.quote(str(Path.cwd()))}", f"    {command}", ""]
    lines += [
        f"Either goes on with {stage}; a training resumes from its newest checkpoint. If a setting or the code has "
        "changed since, earlier stages that depend on it run again. To keep them as they are, choose "
        f"`{stage}` as **start** in the form, or add `--from {stage}` to the command.",
        "",
    ]
    return "\n".join(lines)
