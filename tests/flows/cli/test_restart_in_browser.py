"""A run that was killed in its second phase is started again from there in Prefect's own form, without typing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="no browser driver: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(CHROMIUM is None, reason="no browser: apt-get install chromium"),
]

PROFILE = """
[model]
name = "tiny"
[data]
generate_train = [
    { min_tokens = 190, max_tokens = 256, rows = 4 },
    { min_tokens = 257, max_tokens = 384, rows = 4 },
]
generate_eval = [{ min_tokens = 190, max_tokens = 384, rows = 4 }]
[grpo]
group_size = 2
batch_size = 2
mini_batch_size = 2
dynamic_sampling = { max_rounds = 1 }
phases = [
    { max_prompt_tokens = 256, max_completion_tokens = 16, cache_tokens = 8, steps = 1, evaluate = false },
    { max_prompt_tokens = 384, max_completion_tokens = 16, cache_tokens = 8, steps = 1 },
]
[evaluation]
max_prompt_tokens = 384
max_completion_tokens = 16
batch_size = 4
bootstrap_resamples = 100
[execution]
retries = 0
[storage]
uri = ".qwenlong/artifacts"
work_dir = ".qwenlong/work"
runs_dir = ".qwenlong/runs"
[tracking]
uri = "sqlite:///.qwenlong/mlflow.db"
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("form")
    (folder / "mine.toml").write_text(PROFILE)
    return folder


@pytest.fixture(scope="module")
def pages(home) -> Iterator[str]:
    """Address of Prefect, served with a profile of one's own."""
    command = [sys.executable, "-m", "qwenlong.flows.cli", "serve", "--json", "--profile", "mine.toml"]
    command += ["--port", str(free_port()), "--mlflow-port", str(free_port())]
    process = subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["prefect"]
    finally:
        process.terminate()
        assert process.wait(120) == 143


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": 1280, "height": 1600})
        shown.set_default_timeout(60_000)
        yield shown
        browser.close()


def ask(pages: str, path: str, **body: Any) -> Any:
    return httpx.post(f"{pages}/api/{path}", json=body).raise_for_status().json()


def wait_for(pages: str, run: str, *states: str) -> dict[str, Any]:
    deadline = time.monotonic() + 600
    while (found := httpx.get(f"{pages}/api/flow_runs/{run}").json())["state"]["type"] not in states:
        assert time.monotonic() < deadline, found["state"]
        time.sleep(1)
    return dict(found)


def kill_stage(home: Path, name: str) -> None:
    """End the process of a stage of the run in this folder, as a machine that loses its power does."""
    deadline = time.monotonic() + 600
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


def test_a_killed_run_goes_on_from_its_phase_by_a_choice_and_a_submit(home, pages, page):
    [deployment] = ask(pages, "deployments/filter", deployments={"name": {"any_": ["full-pipeline"]}})
    assert deployment["parameters"]["profile"] == "mine.toml"
    first = ask(pages, f"deployments/{deployment['id']}/create_flow_run")["id"]
    kill_stage(home, "grpo-2")
    assert wait_for(pages, first, "FAILED", "COMPLETED")["state"]["type"] == "FAILED"

    page.goto(f"{pages}/v2/runs/flow-run/{first}?tab=Artifacts")
    page.get_by_text("go-on", exact=False).first.click()
    page.get_by_text("Stopped at grpo-2").first.wait_for()
    assert "qwenlong run --profile mine.toml" in page.inner_text("body")
    form = page.get_by_role("link", name="run it again").get_attribute("href")

    page.goto(form.replace("/deployments/", "/v2/deployments/", 1))
    page.get_by_text("Run again from this stage").wait_for()
    page.get_by_text("the beginning", exact=True).first.click()
    page.get_by_role("option", name="grpo-2", exact=True).click()
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url(lambda url: "/run?" not in url)

    runs = ask(pages, "flow_runs/filter", flows={"name": {"any_": ["qwenlong"]}})
    [second] = [run for run in runs if run["id"] != first]
    assert (second["parameters"]["profile"], second["parameters"]["start"]) == ("mine.toml", "grpo-2")
    assert wait_for(pages, second["id"], "FAILED", "COMPLETED")["state"]["type"] == "COMPLETED"
    made = {task["name"] for task in ask(pages, "task_runs/filter", flow_runs={"id": {"any_": [second["id"]]}})}
    assert "grpo-2" in made and not made & {"base", "prepare", "grpo-1"}, "what is before it is taken over"


def test_the_form_refuses_what_no_profile_has(pages):
    [deployment] = ask(pages, "deployments/filter", deployments={"name": {"any_": ["full-pipeline"]}})
    wrong = (
        {"profile": "nosuch"},
        {"start": "grpo-9"},
        {"settings": {"grpo.group_size": 1}},
        {"settings": {"grpo.engine": "x"}},
    )
    for parameters in wrong:
        answer = httpx.post(
            f"{pages}/api/deployments/{deployment['id']}/create_flow_run", json={"parameters": parameters}
        )
        assert answer.status_code in (409, 422), (parameters, answer.text)
