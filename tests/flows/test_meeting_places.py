"""Where the flow and the workers of other hosts meet: what only one of them reaches is refused before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from qwenlong.flows.meeting_places import MLFLOW, PREFECT, STORE, not_shared, on_a_network
from qwenlong.flows.pipeline_run import PipelineRun, preflight
from qwenlong.tasks.stage import RunContext
from qwenlong_core.settings.profiles import SettingsError, load_settings

POOL = "execution.deployments={grpo='stage/gpu'}"
SHARED = ("storage.uri=s3://bucket/x", "tracking.uri=http://mlflow.lan:5000")


def faults(*overrides: str, profile: str = "smoke", prefect: str | None = "http://prefect.lan:4200/api") -> set[str]:
    with temporary_settings({PREFECT_API_URL: prefect}):
        return set(not_shared(load_settings(profile, overrides)))


def test_without_a_pool_everything_may_be_local() -> None:
    assert faults(prefect=None) == set()


def test_each_local_place_is_found() -> None:
    assert faults(POOL, prefect=None) == {STORE, MLFLOW, PREFECT}
    assert faults(POOL, *SHARED) == set()
    assert faults(POOL, *SHARED, prefect="http://127.0.0.1:4200/api") == {PREFECT}
    assert faults(POOL, *SHARED, prefect="http://localhost:4200/api") == {PREFECT}
    assert faults(POOL, *SHARED, "storage.s3.endpoint_url=http://127.0.0.2:8333") == {STORE}
    for here in ("sqlite:////srv/mlflow.db", "http://localhost:5000", "postgresql+psycopg2://me@127.0.0.1/mlflow"):
        assert faults(POOL, SHARED[0], f"tracking.uri={here}") == {MLFLOW}
    assert faults(POOL, SHARED[0], "tracking.uri=postgresql+psycopg2://me@db.lan/mlflow") == set()


def test_the_bucket_of_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:8333")
    assert faults(POOL, *SHARED) == {STORE}
    assert faults(POOL, *SHARED, "storage.s3.endpoint_url=http://s3.lan") == set()


def test_workers_on_this_machine_are_said_to_be() -> None:
    assert faults(POOL, "execution.workers_here=true", prefect=None) == set()
    with pytest.raises(SettingsError, match=r"execution.workers_here says where .* set both or none"):
        load_settings("smoke", ["execution.workers_here=true"])


def test_the_large_profiles_name_store_and_mlflow() -> None:
    for name in ("8gpu-14b", "32b", "l1.5-30b"):
        assert faults(profile=name) == set() and faults(profile=name, prefect=None) == {PREFECT}


@pytest.mark.parametrize(
    ("folder", "expected"),
    [("/data/new/artifacts", True), ("/data", True), ("/data/disk/x", False), ("/database", False), ("/juice/x", True)],
)
def test_a_folder_that_other_machines_mount_is_a_store_for_all(folder: str, expected: bool) -> None:
    mounts = {"/": "ext4", "/data": "nfs4", "/data/disk": "xfs", "/juice": "fuse.juicefs"}
    assert on_a_network(Path(folder), {Path(point): kind for point, kind in mounts.items()}) == expected


def test_a_run_is_refused_before_it_leaves_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings("smoke", [POOL])
    with pytest.raises(ValueError, match=r"stages \(grpo\) to workers, which could not reach") as refused:
        preflight(settings)
    for mend in ("set storage.uri to s3://", "set tracking.uri to http://HOST", "export PREFECT_API_URL"):
        assert mend in str(refused.value)
    assert str(refused.value).count("execution.workers_here=true") == 3
    # The nights and the flow `promote` have no preflight.
    with pytest.raises(ValueError, match="which could not reach"):
        PipelineRun(settings, RunContext(settings=settings, run_id="x"))
    assert not list(tmp_path.iterdir())
