"""``qwenlong serve``: Prefect server, MLflow server and a worker on loopback, and the deployments."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from qwenlong.flows.cli.environment import is_up
from qwenlong.tasks.process import ProcessFailed
from qwenlong.tasks.tracking.client import TRAINING_PAGES, prepare_tracking_folder
from qwenlong_core.settings.tree import Settings
from qwenlong_core.shipped import SHIPPED

POOL = "local"
DEPLOYMENTS = ("full-pipeline", "nightly", "promote")

_HOST = "127.0.0.1"
_START_SECONDS = 180
_STOP_SECONDS = 20


class Services:
    """The processes started here; leaving the block stops them, newest first, and nothing else."""

    def __init__(self, environment: dict[str, str], logs: Path) -> None:
        self._environment = environment
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Services:
        return self

    def __exit__(self, *exception: object) -> None:
        for name, process in reversed(self._running.items()):
            print(f"stopping {name}", file=sys.stderr)
            _stop(process)

    def start(self, name: str, arguments: Sequence[str], ready_url: str | None = None) -> None:
        """Start ``python -m arguments``; wait until it answers at ``ready_url``.

        Raises:
            ProcessFailed: it ended or did not answer in time; its log is named.
        """
        log = self._logs / f"{name}.log"
        with log.open("ab") as stream:
            # A group of its own: Ctrl-C reaches only this process, which then stops all in order.
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdout=stream,
                stderr=stream,
                env=self._environment,
                start_new_session=True,
            )
        self._running[name] = process
        deadline = time.monotonic() + _START_SECONDS
        while ready_url and not is_up(ready_url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise ProcessFailed(f"{name} did not start: see {log}")
            time.sleep(0.3)

    def wait(self) -> None:
        """Return when a service has ended by itself.

        Raises:
            ProcessFailed: always; naming which one and its log.
        """
        while True:
            for name, process in self._running.items():
                if process.poll() is not None:
                    raise ProcessFailed(f"{name} ended with status {process.returncode}: see {self._logs / name}.log")
            time.sleep(0.5)


def _stop(process: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            return
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue


def _refuse_taken(port: int, option: str) -> None:
    with socket.socket() as probe:
        if probe.connect_ex((_HOST, port)) == 0:
            raise ValueError(f"port {port} is in use: stop what listens there, or choose another with {option}")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def serve_all(settings: Settings, port: int, mlflow_port: int, *, as_json: bool) -> None:
    """Start everything, say where it is, and wait for Ctrl-C.

    Raises:
        ValueError: a port is taken, or named twice.
        ProcessFailed: a service did not start or ended.
    """
    if port == mlflow_port:
        raise ValueError(f"--port and --mlflow-port are both {port}: Prefect and MLflow need one each")
    _refuse_taken(port, "--port")
    _refuse_taken(mlflow_port, "--mlflow-port")
    signal.signal(signal.SIGTERM, _interrupt)
    api, mlflow = f"http://{_HOST}:{port}/api", f"http://{_HOST}:{mlflow_port}"
    environment = os.environ | {"PREFECT_API_URL": api}
    prepare_tracking_folder(settings.tracking.uri)
    state = Path(settings.storage.runs_dir).absolute().parent
    with Services(environment, state / "logs") as services:
        services.start(
            "prefect-server", ["prefect", "server", "start", "--host", _HOST, "--port", str(port)], f"{api}/health"
        )
        # Attachments would otherwise lie in the working directory.
        store = ["--backend-store-uri", settings.tracking.uri, "--artifacts-destination", str(state / "attachments")]
        address = ["--host", _HOST, "--port", str(mlflow_port), "--workers", "1"]
        services.start("mlflow-server", ["mlflow", "server", *store, *address], f"{mlflow}/health")
        _prefect(environment, "work-pool", "create", POOL, "--type", "process", "--overwrite")
        names = [part for name in DEPLOYMENTS for part in ("--name", name)]
        _prefect(environment, "--no-prompt", "deploy", "--prefect-file", str(SHIPPED / "prefect.yaml"), *names)
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


def _announce(pages: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(pages), flush=True)
        return
    print(f"Prefect  {pages['prefect']}", flush=True)
    print(f"MLflow   {pages['mlflow']}/#/experiments?{TRAINING_PAGES}", flush=True)
    print("In another shell, with the same Python environment:", flush=True)
    print(f"  export PREFECT_API_URL={pages['prefect']}/api", flush=True)
    print("  prefect deployment run qwenlong/full-pipeline --watch", flush=True)
    print("Ctrl-C stops the servers and the worker.", flush=True)
