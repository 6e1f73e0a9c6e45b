"""``qwenlong serve`` in a folder for tests, what is asked of its Prefect, and what a person does on its pages."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from prefect.client.orchestration import SyncPrefectClient


def free_port() -> int:
    """A port on loopback at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(
    home: Path, *options: str, start: Sequence[str | Path] | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[dict[str, str]]:
    """``serve`` with these options in a folder; yields the addresses that it prints, and Prefect's API as ``api``.

    Args:
        start: what starts the console; this interpreter by default.
    """
    command = [*(start or (sys.executable, "-m", "qwenlong.flows.cli")), "serve", "--json", *options]
    command += ["--port", str(free_port()), "--mlflow-port", str(free_port())]
    process = subprocess.Popen(
        command, cwd=home, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        pages = json.loads(process.stdout.readline())
        yield pages | {"api": f"{pages['prefect']}/api"}
    finally:
        process.terminate()
        assert process.wait(120) == 143


def ask(pages: Mapping[str, str], path: str, **body: Any) -> Any:
    """What Prefect's API answers to a POST; its own client repeats what a busy server refuses."""
    with SyncPrefectClient(pages["api"]) as client:
        return client.request("POST", f"/{path}", json=body).json()


def flow_runs(pages: Mapping[str, str], flow: str, **filters: Any) -> list[dict[str, Any]]:
    """The runs of a flow."""
    found: list[dict[str, Any]] = ask(pages, "flow_runs/filter", flows={"name": {"any_": [flow]}}, flow_runs=filters)
    return found


def deployment(pages: Mapping[str, str], name: str) -> dict[str, Any]:
    """The deployment of a name."""
    [found] = ask(pages, "deployments/filter", deployments={"name": {"any_": [name]}})
    return dict(found)


def wait_for(pages: Mapping[str, str], run: str, *states: str) -> dict[str, Any]:
    """Wait until a flow run is in one of these states."""
    deadline, this = time.monotonic() + 1200, {"id": {"any_": [run]}}
    while (found := ask(pages, "flow_runs/filter", flow_runs=this)[0])["state"]["type"] not in states:
        assert time.monotonic() < deadline, found["state"]
        time.sleep(1)
    return dict(found)


def made_in(pages: Mapping[str, str], run: str) -> set[str]:
    """The stages that have a task run in a flow run."""
    return {task["name"] for task in ask(pages, "task_runs/filter", flow_runs={"id": {"any_": [run]}})}


def kill_stage(home: Path, name: str) -> None:
    """End the process of a stage of the run in this folder, as a machine that loses its power does."""
    deadline = time.monotonic() + 1200
    while time.monotonic() < deadline:
        for process in psutil.process_iter():
            try:
                words = process.cmdline()
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
            if "qwenlong_core.training.grpo" in words and any(
                word.startswith(str(home)) and f"/{name}" in word for word in words
            ):
                os.kill(process.pid, signal.SIGKILL)
                return
        time.sleep(0.1)
    raise AssertionError(f"{name} never ran")


def restart_in_browser(page: Any, pages: Mapping[str, str], failed: str, stage: str) -> str:
    """On the page of a failed run, follow ``go-on`` to the form, choose a stage and submit; returns the page's text."""
    page.goto(f"{pages['prefect']}/v2/runs/flow-run/{failed}?tab=Artifacts")
    page.get_by_text("go-on", exact=False).first.click()
    page.locator('a[href*="/artifacts/artifact/"]').first.click()
    form = page.get_by_role("link", name="run it again").get_attribute("href")
    said = str(page.inner_text("body"))
    assert f"Stopped at {stage}" in said
    page.goto(form.replace("/deployments/", "/v2/deployments/", 1))
    page.get_by_text("Run again from this stage").wait_for()
    page.get_by_text("the beginning", exact=True).first.click()
    page.get_by_role("option", name=stage, exact=True).click()
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url(lambda url: "/run?" not in url)
    return said
