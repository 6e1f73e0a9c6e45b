"""What ``pip install qwenlong`` installs, and that it works from an empty folder without the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from pathlib import Path

import pytest
from installation import built, installed

from qwenlong_core.store.fingerprint import ROOT, code_digest

SHIPPED = {"flows": "*.py", "tasks": "*.py", "infra/profiles": "*.toml", "infra/accelerate": "*.yaml"}
"""Folders that a wheel holds below ``qwenlong/``, and which of their files."""

DIGESTED = ("qwenlong_core.training.grpo", "qwenlong_core.data.prepare")

IN_THE_WHEEL = f"""
import json
import qwenlong.flows.full_pipeline, qwenlong.tasks.stage, qwenlong_core.shipped as shipped, yaml
from prefect.flows import load_flow_from_entrypoint
from qwenlong_core.settings.profiles import load_settings, profile_names
from qwenlong_core.store.fingerprint import code_digest

deployments = yaml.safe_load((shipped.SHIPPED / "prefect.yaml").read_text())["deployments"]
flows = [load_flow_from_entrypoint(each["entrypoint"], use_placeholder_flow=False) for each in deployments]
launches = [load_settings(name).launch.accelerate_config for name in profile_names()]
print(json.dumps({{
    "modules": [qwenlong.flows.full_pipeline.__file__, qwenlong.tasks.stage.__file__, shipped.__file__],
    "flows": [flow.name for flow in flows],
    "launch files": [str(shipped.own_or_shipped(path)) for path in launches if path],
    "code": [code_digest((module,)) for module in {DIGESTED!r}],
}}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return built(tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def bin_folder(wheel, tmp_path_factory) -> Path:
    return installed(wheel, tmp_path_factory.mktemp("environment") / "venv")


def run(command: list[str | Path], folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_the_wheel_holds_every_module_and_shipped_file_and_no_common_top_level_name(wheel):
    expected = {f"qwenlong_core/{path.relative_to(ROOT / 'qwenlong_core')}" for path in core_files()}
    for folder, pattern in SHIPPED.items():
        expected |= {f"qwenlong/{path.relative_to(ROOT)}" for path in (ROOT / folder).rglob(pattern)}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == expected | {"qwenlong/prefect.yaml"}, sorted(held ^ expected)
    assert {name.partition("/")[0] for name in held} == {"qwenlong", "qwenlong_core"}


def core_files() -> list[Path]:
    return list((ROOT / "qwenlong_core").rglob("*.py"))


@pytest.mark.slow
def test_modules_deployments_and_launch_files_are_the_wheels_own(bin_folder, tmp_path):
    found = json.loads(run([bin_folder / "python", "-c", IN_THE_WHEEL], tmp_path))
    paths = [*found["modules"], *found["launch files"]]
    assert len(paths) > 3
    assert all(Path(path).is_file() and Path(path).is_relative_to(bin_folder.parent) for path in paths), paths
    assert found["flows"] == ["qwenlong", "nightly-eval", "promote", "stage"]
    assert found["code"] == [code_digest((module,)) for module in DIGESTED], "a wheel re-uses what a checkout has made"


@pytest.mark.slow
def test_doctor_finds_nothing_missing_in_an_empty_folder(bin_folder, tmp_path):
    findings = json.loads(run([bin_folder / "qwenlong", "doctor", "--profile", "smoke", "--json"], tmp_path))
    assert {finding["topic"] for finding in findings} >= {"base model", "phase 3"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_smoke_pipeline_runs_in_an_empty_folder(bin_folder, tmp_path):
    result = json.loads(run([bin_folder / "qwenlong", "run", "--profile", "smoke", "--json"], tmp_path))
    assert [row["how"] for row in result["stages"]] == ["ran"] * len(result["stages"])
    assert Path(result["report"]).is_file() and Path(result["report"]).is_relative_to(tmp_path)
