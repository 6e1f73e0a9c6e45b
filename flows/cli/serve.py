"""``qwenlong serve``: a Prefect server, an MLflow server and a worker on loopback, with the deployments applied."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from qwenlong.flows.cli.common import Json, Overrides, Profile, one_clear_message
from qwenlong.flows.cli.environment import is_up, prefect_start_lock
from qwenlong.tasks.process import ProcessFailed
from qwenlong_core.settings.profiles import load_settings, profile_names
from qwenlong_core.settings.tree import Settings
from qwenlong_core.shipped import SHIPPED

POOL = "local"
DEPLOYMENTS = ("full-pipeline", "nightly", "promote")

_HOST = "127.0.0.1"
_START_SECONDS = 180
_QUIET = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""MLflow's server would start a dozen more processes, for jobs that nothing here has."""
_STOP_SECONDS = 20
_RESTARTS = 3
"""How often a service that has ended is started again: its state is on the disk, and runs go on meanwhile."""


def serve(
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Prefect's port.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65_535, help="MLflow's port.")] = 5000,
    profile: Profile = "local",
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Start Prefect, MLflow and a worker on loopback and apply prefect.yaml. Ctrl-C stops them."""
    with one_clear_message():
        defaults = {"profile": profile, "overrides": overrides or []}
        _serve_all(load_settings(profile, overrides or ()), defaults, (port, mlflow_port), as_json=as_json)


class Services:
    """Processes that stop when the block is left, the newest first."""

    def __init__(self, environment: dict[str, str], logs: Path) -> None:
        self._environment = environment
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._how: dict[str, tuple[Sequence[str], str | None]] = {}
        self._restarts: Counter[str] = Counter()
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Services:
        return self

    def __exit__(self, *exception: object) -> None:
        for name, process in reversed(self._running.items()):
            print(f"stopping {name}", file=sys.stderr)
            _stop(process)

    def start(self, name: str, arguments: Sequence[str], ready_url: str | None = None) -> None:
        """Start ``python -m arguments`` and wait until it answers at ``ready_url``.

        Raises:
            ProcessFailed: it ended or did not answer in time; the message names its log.
        """
        self._begin(name, arguments, ready_url)
        if not self._is_ready(name):
            raise ProcessFailed(f"{name} did not start: see {self._logs / name}.log")

    def _begin(self, name: str, arguments: Sequence[str], ready_url: str | None) -> None:
        with (self._logs / f"{name}.log").open("ab") as stream:
            # In a session of its own, so that Ctrl-C reaches only this process, which stops the others in order.
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdout=stream,
                stderr=stream,
                env=self._environment,
                start_new_session=True,
            )
        self._running[name], self._how[name] = process, (arguments, ready_url)

    def _is_ready(self, name: str) -> bool:
        """Whether it answers; waits until it does, has ended, or has taken too long."""
        deadline, ready_url = time.monotonic() + _START_SECONDS, self._how[name][1]
        while ready_url and not is_up(ready_url):
            if self._running[name].poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(0.3)
        return True

    def wait(self) -> None:
        """Wait, and start a service that has ended again.

        Raises:
            ProcessFailed: a service ends again and again; the message names it and its log.
        """
        while True:
            for name, process in list(self._running.items()):
                if process.poll() is not None:
                    self._start_again(name, process.returncode)
            time.sleep(0.5)

    def _start_again(self, name: str, status: int) -> None:
        ended = f"{name} ended with status {status}"
        if self._restarts[name] == _RESTARTS:
            raise ProcessFailed(f"{ended}, for the {_RESTARTS + 1}th time: see {self._logs / name}.log")
        self._restarts[name] += 1
        print(f"{ended}: starting it again", file=sys.stderr)
        self._begin(name, *self._how[name])
        # One that ends before it answers counts as one more end, which wait() sees.
        if not self._is_ready(name) and self._running[name].poll() is None:
            raise ProcessFailed(f"{name} does not answer: see {self._logs / name}.log")


def _stop(process: subprocess.Popen[bytes]) -> None:
    # SIGKILL follows in any case: it takes what is left of the group after its leader has ended.
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            return
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue


def _check_ports(port: int, mlflow_port: int) -> None:
    """Refuse ports that are equal or in use.

    Raises:
        ValueError: naming the option to change.
    """
    if port == mlflow_port:
        raise ValueError(f"--port and --mlflow-port are both {port}: Prefect and MLflow need one each")
    for option, number in (("--port", port), ("--mlflow-port", mlflow_port)):
        with socket.socket() as probe:
            if probe.connect_ex((_HOST, number)) == 0:
                raise ValueError(f"port {number} is in use: stop what listens there, or choose another with {option}")


def _serve_all(settings: Settings, defaults: dict[str, Any], ports: tuple[int, int], *, as_json: bool) -> None:
    """Start everything, print the addresses, and wait for Ctrl-C.

    Args:
        defaults: parameters of a run for which nothing else is said.
        ports: Prefect's and MLflow's.

    Raises:
        ValueError: a port is taken, or named twice.
        ProcessFailed: a service did not start or ended.
    """
    from qwenlong.tasks.tracking.client import make_database

    port, mlflow_port = ports
    _check_ports(port, mlflow_port)
    api, mlflow = f"http://{_HOST}:{port}/api", f"http://{_HOST}:{mlflow_port}"
    environment = _QUIET | os.environ | {"PREFECT_API_URL": api}
    make_database(settings.tracking.uri)
    state = Path(settings.storage.runs_dir).absolute().parent
    with Services(environment, state / "logs") as services:
        with prefect_start_lock():
            services.start(
                "prefect-server", ["prefect", "server", "start", "--host", _HOST, "--port", str(port)], f"{api}/health"
            )
        # By default MLflow puts attachments into the working directory.
        store = ["--backend-store-uri", settings.tracking.uri, "--artifacts-destination", str(state / "attachments")]
        address = ["--host", _HOST, "--port", str(mlflow_port), "--workers", "1"]
        services.start("mlflow-server", ["mlflow", "server", *store, *address], f"{mlflow}/health")
        _prefect(environment, "work-pool", "create", POOL, "--type", "process", "--overwrite")
        names = [part for name in DEPLOYMENTS for part in ("--name", name)]
        _prefect(environment, "--no-prompt", "deploy", "--prefect-file", str(SHIPPED / "prefect.yaml"), *names)
        _offer(api, defaults)
        services.start("prefect-worker", ["prefect", "worker", "start", "--pool", POOL, "--type", "process"])
        pages = {"prefect": f"http://{_HOST}:{port}", "mlflow": mlflow}
        _announce(pages, as_json=as_json)
        services.wait()


def _prefect(environment: dict[str, str], *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *arguments], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise ProcessFailed(f"`prefect {' '.join(arguments)}` failed:\n{done.stdout}{done.stderr}")


def _offer(api: str, defaults: dict[str, Any]) -> None:
    """Make the served profile the default of the forms, and one of their choices where it is a file of one's own."""
    # Prefect's own client: it repeats what a busy server answers with 503.
    from prefect.client.orchestration import SyncPrefectClient

    from qwenlong.flows.form import choices

    offered = choices(dict.fromkeys((*profile_names(), defaults["profile"])))
    query = {"deployments": {"name": {"any_": DEPLOYMENTS}}}
    with SyncPrefectClient(api) as client:
        for deployment in client.request("POST", "/deployments/filter", json=query).json():
            schema = deployment["parameter_openapi_schema"]
            for name in offered.keys() & schema["properties"].keys():
                schema["properties"][name] |= offered[name]
            schema["additionalProperties"] = False  # else a mistyped name starts a run that crashes
            changed = {"parameters": defaults, "parameter_openapi_schema": schema}
            client.request("PATCH", "/deployments/{id}", path_params={"id": deployment["id"]}, json=changed)


def _announce(pages: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(pages), flush=True)
        return
    from qwenlong.tasks.tracking.client import TRAINING_PAGES

    print(f"Prefect  {pages['prefect']}", flush=True)
    print(f"MLflow   {pages['mlflow']}/#/experiments?{TRAINING_PAGES}", flush=True)
    print("In another shell, with the same Python environment:", flush=True)
    print(f"  export PREFECT_API_URL={pages['prefect']}/api", flush=True)
    print("  prefect deployment run qwenlong/full-pipeline --watch", flush=True)
    print("Ctrl-C stops the servers and the worker.", flush=True)
