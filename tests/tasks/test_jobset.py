"""The JobSet of a training: its manifest holds to the published API, and it is made, followed and deleted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from kube_api import KubeApi

from qwenlong_core.store.fingerprint import ROOT

pytest.importorskip("kubernetes", reason="pip install -e '.[kubernetes]'")

from qwenlong.tasks.jobset import filled

MANIFEST = ROOT / "infra/kubernetes/jobset.yaml"


@pytest.fixture
def api(tmp_path: Path):
    server = KubeApi(tmp_path)
    yield server
    server.shutdown()
    server.server_close()


def command(program: str, work: Path, machines: int = 2) -> list[str]:
    # To Python, what follows the program are arguments that it ignores.
    return [sys.executable, "-c", program, "--num_machines", str(machines), "--work", str(work / "grpo-1-0123abcd")]


def submit(api: KubeApi, program: str, *, machines: int = 2) -> subprocess.Popen[str]:
    here = [sys.executable, "-m", "qwenlong.tasks.jobset", "--manifest", str(MANIFEST)]
    return subprocess.Popen(
        [*here, *command(program, api.folder, machines)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=api.folder,
        env=os.environ | {"KUBECONFIG": str(api.kubeconfig)},
    )  # fmt: skip


def wait_for_line(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return
    raise AssertionError(f"{text!r} is not in:\n{''.join(seen)}")


def test_the_manifest_holds_to_the_published_api() -> None:
    """Against the models of JobSet 0.12 and Kubernetes 1.36 in Kubeflow Trainer's package: what they do not know they
    drop, and a wrong type they refuse."""
    models = pytest.importorskip("kubeflow_trainer_api.models.jobset_v1alpha2_job_set", reason="pip install '.[dev]'")
    body = filled(yaml.safe_load(MANIFEST.read_text()), command("pass", Path("/work"), machines=4))
    assert models.JobsetV1alpha2JobSet.from_dict(body).to_dict() == body
    job = body["spec"]["replicatedJobs"][0]["template"]["spec"]
    for wrong in ({"parallelisms": 4}, {"parallelism": "four"}):
        changed = body | {"spec": {"replicatedJobs": [{"name": "node", "template": {"spec": job | wrong}}]}}
        try:
            assert models.JobsetV1alpha2JobSet.from_dict(changed).to_dict() != changed
        except ValueError:
            assert "four" in wrong.values()


def test_pods_know_their_number_and_where_they_meet_and_pod_0_is_heard(api: KubeApi) -> None:
    program = "import os; print('pod', os.environ['JOB_COMPLETION_INDEX'], os.environ['MASTER_PORT'], flush=True)"
    process = submit(api, program, machines=3)
    log = process.communicate(timeout=60)[0]
    assert process.returncode == 0, log
    assert "pod 0 29500" in log and "pod 1" not in log
    [body] = api.created
    [job] = body["spec"]["replicatedJobs"]
    assert job["template"]["spec"]["completions"] == 3 and body["spec"]["failurePolicy"] == {"maxRestarts": 0}
    name = body["metadata"]["name"]
    assert {pod.address for pod in api.pods[name]} == {f"{name}-node-0-0.{name}"}
    assert api.deleted == [(name, "Foreground")], "nothing stays in the cluster"


def test_a_pod_that_fails_fails_the_training_and_its_last_lines_are_shown(api: KubeApi) -> None:
    program = (
        "import os, time; bad = os.environ['JOB_COMPLETION_INDEX'] == '1'; bad and print('CUDA error: the cause');"
        " time.sleep(0 if bad else 1); raise SystemExit(7 * bad)"
    )
    process = submit(api, program)
    log = process.communicate(timeout=60)[0]
    assert process.returncode == 1 and "node-0-1-x7k2p: CUDA error: the cause" in log


def test_sigterm_reaches_the_pods_which_are_heard_to_the_end(api: KubeApi) -> None:
    program = (
        "import signal, time\ndef stop(*_): time.sleep(1); print('saved', flush=True); raise SystemExit(143)\n"
        "signal.signal(signal.SIGTERM, stop); print('up', flush=True); time.sleep(100)"
    )
    process = submit(api, program)
    wait_for_line(process, "up")
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    wait_for_line(process, "saved")
    process.communicate(timeout=30)
    assert process.returncode == 143 and not api.jobsets
    assert all(pod.process.poll() is not None for pods in api.pods.values() for pod in pods)


def test_what_a_killed_submitter_left_is_deleted_before_the_next_start(api: KubeApi) -> None:
    first = submit(api, "import time; print('up', flush=True); time.sleep(100)")
    wait_for_line(first, "up")
    first.kill()
    first.communicate()
    [old] = [pod for pod in api.pods[api.created[0]["metadata"]["name"]] if pod.index == 0]
    assert psutil.pid_exists(old.process.pid)
    second = submit(api, "print('second')")
    log = second.communicate(timeout=60)[0]
    assert second.returncode == 0 and "deleting it" in log and "second" in log
    assert old.process.poll() == -signal.SIGTERM


def test_a_server_that_is_away_for_a_moment_costs_no_line(api: KubeApi) -> None:
    program = "import time\nfor i in range(4): print('line', i, flush=True); time.sleep(1)"
    process = submit(api, program)
    wait_for_line(process, "line 0")
    api.failing = 2
    assert process.stdout is not None
    rest: list[Any] = list(process.stdout)
    assert process.wait(30) == 0
    assert [line.strip() for line in rest if line.startswith("line")] == [f"line {i}" for i in (1, 2, 3)]


def test_a_manifest_of_two_jobs_is_refused() -> None:
    template = yaml.safe_load(MANIFEST.read_text())
    template["spec"]["replicatedJobs"] *= 2
    with pytest.raises(ValueError, match="one replicated job"):
        filled(template, command("pass", Path("/work")))
