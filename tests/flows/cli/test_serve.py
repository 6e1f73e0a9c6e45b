"""``qwenlong serve`` for real: servers, worker, deployments, a deployed run that completes, and Ctrl-C."""

from __future__ import annotations

import json
import os
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
from serving import flow_runs, free_port

from qwenlong.flows.cli.environment import is_up, other_home, use_project_defaults

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """An empty folder: profiles and deployments come with the code."""
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def served(home) -> Iterator[dict[str, str]]:
    ports = [free_port(), free_port()]
    command = [sys.executable, "-m", "qwenlong.flows.cli", "serve", "--json", "--profile", "smoke"]
    command += ["--port", str(ports[0]), "--mlflow-port", str(ports[1])]
    process = subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, text=True, start_new_session=True)
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline()) | {"api": f"http://127.0.0.1:{ports[0]}/api"}
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) >= 3
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130
        _, alive = psutil.wait_procs(started, timeout=30)
        assert not alive, "Ctrl-C stops everything it started"
        assert bystander.poll() is None, "and nothing else"
    finally:
        bystander.kill()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)


def prefect(home: Path, served: dict[str, str], *arguments: str) -> str:
    environment = os.environ | {"PREFECT_API_URL": served["api"], "PREFECT_HOME": str(home / ".qwenlong/prefect")}
    command = [sys.executable, "-m", "prefect", *arguments]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_a_server_tells_which_folder_it_serves(home, served, monkeypatch):
    own = home / ".qwenlong/prefect"
    monkeypatch.setenv("PREFECT_HOME", str(home / "elsewhere"))
    assert other_home(served["api"]) == own.resolve()
    monkeypatch.setenv("PREFECT_HOME", str(own))
    assert other_home(served["api"]) is None


def test_the_deployments_are_listed(home, served):
    listed = prefect(home, served, "deployment", "ls")
    for name in ("qwenlong/full-pipeline", "nightly-eval/nightly", "promote/promote"):
        assert name in listed.replace("\n", "")
    [deployment] = httpx.post(
        f"{served['api']}/deployments/filter", json={"deployments": {"name": {"any_": ["nightly"]}}}
    ).json()
    assert deployment["schedules"][0]["schedule"]["cron"] == "0 2 * * *"


def test_a_mistyped_field_starts_no_run(served):
    [deployment] = httpx.post(
        f"{served['api']}/deployments/filter", json={"deployments": {"name": {"any_": ["full-pipeline"]}}}
    ).json()
    refused = httpx.post(
        f"{served['api']}/deployments/{deployment['id']}/create_flow_run", json={"parameters": {"profil": "smoke"}}
    )
    assert refused.status_code == 409 and "profil" in refused.text
    assert not flow_runs(served, "qwenlong")


def test_the_coming_nights_are_scheduled(served):
    query = {"deployments": {"name": {"any_": ["nightly"]}}, "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    deadline = time.monotonic() + 90
    while (
        not (runs := httpx.post(f"{served['api']}/flow_runs/filter", json=query).json()) and time.monotonic() < deadline
    ):
        time.sleep(1)
    assert runs and all("T02:00:00" in run["expected_start_time"] for run in runs)


def test_a_deployed_run_completes_with_its_stages_as_tasks(home, served):
    prefect(home, served, "deployment", "run", "qwenlong/full-pipeline", "-p", "profile=smoke", "--watch")
    [run] = httpx.post(f"{served['api']}/flow_runs/filter", json={"flows": {"name": {"any_": ["qwenlong"]}}}).json()
    assert run["state"]["type"] == "COMPLETED" and run["state"]["message"].startswith("version 1 ")
    stages = {
        "base",
        "prepare",
        "sft",
        "grpo-1",
        "grpo-2",
        "grpo-3",
        "evaluate-grpo-3",
        "register",
        "promote",
        "report",
    }
    deadline = time.monotonic() + 60  # task states reach the server through its event stream
    states: dict[str, str] = {}
    while not (stages <= set(states) and set(states.values()) == {"COMPLETED"}) and time.monotonic() < deadline:
        tasks = httpx.post(
            f"{served['api']}/task_runs/filter", json={"flow_runs": {"id": {"any_": [run["id"]]}}}
        ).json()
        states = {task["name"]: task["state"]["type"] for task in tasks}
        time.sleep(1)
    assert stages <= set(states) and set(states.values()) == {"COMPLETED"}
    artifacts = httpx.post(f"{served['api']}/artifacts/filter", json={}).json()
    progress = {item["key"]: item["data"] for item in artifacts if item["type"] == "progress"}
    assert progress["progress-grpo-3"] == 100.0
    markdown = {item["key"]: item["data"] for item in artifacts if item["type"] == "markdown"}
    assert "grpo-3" in markdown["scores"] and "SHA-256" in markdown["stage-sft"]
    assert "report.html" in markdown["report"] and "/runs/" in markdown["report"]
    assert "| reward |" in markdown["curves-grpo-3"] and "| loss |" in markdown["curves-sft"]
    of_task = {item["key"]: item["task_run_id"] for item in artifacts}
    assert all(of_task[f"stage-{task['name']}"] == task["id"] for task in tasks), (
        "a stage's result is on its task's page"
    )


def test_nightly_says_what_is_missing_while_nothing_is_promoted(home, served):
    environment = os.environ | {"PREFECT_API_URL": served["api"], "PREFECT_HOME": str(home / ".qwenlong/prefect")}
    command = [
        sys.executable,
        "-m",
        "prefect",
        "deployment",
        "run",
        "nightly-eval/nightly",
        "-p",
        "profile=smoke",
        "--watch",
    ]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    [run] = flow_runs(served, "nightly-eval", state={"type": {"any_": ["FAILED"]}})
    assert "there is no champion in the registry" in run["state"]["message"]


def test_the_page_of_a_run_names_it_and_a_deployed_promotion_moves_the_alias(home, served):
    [run] = flow_runs(served, "qwenlong")
    assert (home / ".qwenlong/smoke/runs" / run["name"].removeprefix("smoke ")).is_dir(), "one id everywhere"
    wide = json.dumps(["promotion.margin=-1", "promotion.max_loss=1", "promotion.max_truncated_share=1"])
    prefect(
        home,
        served,
        "deployment",
        "run",
        "promote/promote",
        "-p",
        "profile=smoke",
        "-p",
        f"overrides={wide}",
        "--watch",
    )
    [promotion] = flow_runs(served, "promote")
    assert promotion["name"].startswith("promote smoke version 1 ")
    [shown] = httpx.post(
        f"{served['api']}/artifacts/filter",
        json={"artifacts": {"key": {"any_": ["promotion"]}}, "sort": "CREATED_DESC", "limit": 1},
    ).json()
    assert shown["data"].startswith("# Promoted") and "- pass **complete**: " in shown["data"]


def test_of_two_nights_at_once_one_runs_and_the_other_is_cancelled_and_a_late_one_repeats_nothing(home, served):
    command = ["deployment", "run", "nightly-eval/nightly", "-p", "profile=smoke"]
    before = {run["id"] for run in flow_runs(served, "nightly-eval")}
    for _ in range(2):
        prefect(home, served, *command)

    def states() -> dict[str, list[dict[str, Any]]]:
        by_state: dict[str, list[dict[str, Any]]] = {}
        for run in flow_runs(served, "nightly-eval"):
            if run["id"] not in before and run["state"]["type"] != "SCHEDULED":
                by_state.setdefault(run["state"]["type"], []).append(run)
        return by_state

    deadline = time.monotonic() + 600
    while set(states()) != {"COMPLETED", "CANCELLED"} and time.monotonic() < deadline:
        time.sleep(2)
    ended = {state: len(runs) for state, runs in states().items()}
    assert ended == {"COMPLETED": 1, "CANCELLED": 1}
    [night] = states()["COMPLETED"]
    assert night["name"].startswith("nightly smoke 20")
    prefect(home, served, *command, "--watch")
    [late] = [run for run in states()["COMPLETED"] if run["id"] != night["id"]]
    tasks = httpx.post(f"{served['api']}/task_runs/filter", json={"flow_runs": {"id": {"any_": [late["id"]]}}}).json()
    assert late["name"] == night["name"] and tasks == [], "the night was done; nothing is evaluated again"


def prefect_server(environment: dict[str, str], port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 180
    while not is_up(f"http://127.0.0.1:{port}/api/health"):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.3)
    return process


def test_a_night_that_died_with_its_server_does_not_keep_the_next_ones_out(tmp_path, monkeypatch):
    """A run takes the deployment's one slot; server and run are killed; the slot is free again after the lease."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_SERVER_CONCURRENCY_INITIAL_DEPLOYMENT_LEASE_DURATION", "30")  # the least it takes
    monkeypatch.delenv("PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE", raising=False)
    use_project_defaults()
    port = free_port()
    environment = os.environ | {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}

    def post(path: str, **body: Any) -> dict[str, Any]:
        while (answer := httpx.post(f"{environment['PREFECT_API_URL']}/{path}", json=body)).status_code == 503:
            time.sleep(1)  # its database is busy
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def ask_for_the_slot() -> str:
        run = post(f"deployments/{deployment}/create_flow_run")
        state: str = post(f"flow_runs/{run['id']}/set_state", state={"type": "PENDING"})["state"]["type"]
        return state

    process = prefect_server(environment, port)
    try:
        flow = post("flows/", name="night")["id"]
        one = {"concurrency_limit": 1, "concurrency_options": {"collision_strategy": "CANCEL_NEW"}}
        deployment = post("deployments/", name="nightly", flow_id=flow, **one)["id"]
        assert [ask_for_the_slot(), ask_for_the_slot()] == ["PENDING", "CANCELLED"]
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process = prefect_server(environment, port)
        deadline = time.monotonic() + 120
        while (state := ask_for_the_slot()) == "CANCELLED" and time.monotonic() < deadline:
            time.sleep(2)
        assert state == "PENDING"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_the_pages_answer(served):
    assert "<html" in httpx.get(served["prefect"], follow_redirects=True).text.lower()
    assert "<html" in httpx.get(served["mlflow"]).text.lower()


def test_a_taken_port_is_refused(home):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "qwenlong.flows.cli", "serve", "--port", str(port)]
        done = subprocess.run(command, cwd=home, capture_output=True, text=True)
    assert done.returncode == 2 and f"port {port} is in use" in done.stderr
