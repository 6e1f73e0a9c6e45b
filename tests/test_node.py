"""One machine's part of a training: where it meets the others, and how signals reach what it started."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qwenlong_core.node import meeting
from qwenlong_core.store.fingerprint import ROOT

POD = {"MASTER_ADDR": "set-node-0-0.set", "MASTER_PORT": "29500"}


def options(machines: int, **variables: str) -> dict[str, str]:
    found = meeting(machines, variables)
    return dict(zip(found[::2], found[1::2], strict=True))


def test_machines_meet_at_the_address_that_the_launcher_gives() -> None:
    first, second = (options(2, **POD, JOB_COMPLETION_INDEX=index) for index in "01")
    assert first["--rdzv_backend"] == "c10d"
    assert (first["--main_process_ip"], first["--main_process_port"]) == ("set-node-0-0.set", "29500")
    assert "is_host=true" in first.pop("--rdzv_conf") and "is_host=false" in second.pop("--rdzv_conf")
    assert first == second
    assert "is_host" not in options(2, **POD)["--rdzv_conf"], "torch compares the address with the machine's"


def test_one_machine_meets_nobody() -> None:
    assert meeting(1, {}) == []


def test_without_an_address_the_error_says_how_to_give_one() -> None:
    with pytest.raises(ValueError, match=r"srun, or set MASTER_ADDR"):
        meeting(2, {})
    with pytest.raises(ValueError, match=r"num_machines=4, but srun started 8 task\(s\).*--ntasks-per-node=1"):
        meeting(4, POD | {"SLURM_STEP_NUM_TASKS": "8"})


@pytest.mark.parametrize("sent", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_ends_what_it_started_in_order(sent: signal.Signals, tmp_path: Path) -> None:
    """SIGUSR1 goes to all processes of a Slurm task, so those below must not die of it."""
    child = "import time; print('child', flush=True); time.sleep(60)"
    training = (
        "import os, signal, subprocess, sys, time\n"
        "def stop(*_): time.sleep(0.5); print('saved', flush=True); sys.exit(3)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    )
    program = f"from qwenlong_core.node import run; raise SystemExit(run([{sys.executable!r}, '-c', {training!r}]))"
    node = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    )
    assert node.stdout is not None and node.stdout.readline() == "child\n"
    time.sleep(0.2)
    if sent == signal.SIGUSR1:
        subprocess.run(["kill", "-USR1", "--", f"-{node.pid}"], check=True)  # the whole group, as Slurm does
    else:
        node.send_signal(sent)
    assert node.stdout.read() == "saved\n"
    assert node.wait(20) == 3
