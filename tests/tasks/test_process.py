"""Stage processes: their lines arrive, their failures are told apart, and they never outlive their task."""

from __future__ import annotations

import fcntl
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from qwenlong.tasks.process import _GRACE_SECONDS, ProcessFailed, run_process, stage_command


@pytest.fixture
def lock(tmp_path):
    with (tmp_path / "lock").open("w") as stream:
        yield stream.fileno()


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_lines_arrive_as_they_come_from_both_streams(lock):
    lines: list[str] = []
    run_process(python("import sys; print('out', flush=True); print('err', file=sys.stderr)"), lines.append, lock)
    assert lines == ["out", "err"]


def test_a_failure_carries_the_last_lines(lock):
    with pytest.raises(ProcessFailed, match=r"status 3.*\n(.*\n)*.*the cause"):
        run_process(python("print('the cause'); raise SystemExit(3)"), [].append, lock)


def test_an_interrupted_task_takes_its_whole_process_tree_along(lock):
    tree = (
        "import subprocess, sys; print('up', flush=True); subprocess.run([sys.executable, '-c', 'import time;"
        " time.sleep(600)'])"
    )
    found: list[psutil.Process] = []

    def interrupt(line: str) -> None:
        # Earlier tests may have left this process other children.
        [parent] = [child for child in psutil.Process().children() if "'up'" in " ".join(child.cmdline())]
        deadline = time.monotonic() + 120
        while not parent.children() and time.monotonic() < deadline:
            time.sleep(0.05)
        found.extend([parent, *parent.children()])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_process(python(tree), interrupt, lock)
    assert len(found) == 2
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in found)


@pytest.mark.parametrize(("answer", "told"), [("SIG_IGN", True), ("SIG_DFL", False)])
def test_a_process_that_is_killed_before_it_saved_is_told_of(lock, monkeypatch, answer, told):
    monkeypatch.setattr("qwenlong.tasks.process._GRACE_SECONDS", 1)
    lines: list[str] = []

    def interrupt(line: str) -> None:
        lines.append(line)
        if line == "up":
            raise KeyboardInterrupt

    program = f"import signal, time; signal.signal(signal.SIGTERM, signal.{answer}); print('up', flush=True)"
    with pytest.raises(KeyboardInterrupt):
        run_process(python(program + "; time.sleep(600)"), interrupt, lock)
    assert [line.startswith("killed: ") and "within 1 s" in line for line in lines[1:]] == [True] * told


def test_a_process_that_hangs_is_ended(lock):
    lines: list[str] = []
    hangs = python("import time; [print(i, flush=True) or time.sleep(0.2) for i in range(12)]; time.sleep(600)")
    with pytest.raises(ProcessFailed, match=r"was ended after 0.02 silent minutes.*\n(.*\n)*  11"):
        run_process(hangs, lines.append, lock, silent_minutes=0.02)
    assert len(lines) == 12, "not while it wrote"


def test_ctrl_c_does_not_reach_the_process_itself(lock):
    lines: list[str] = []
    run_process(python("import os, signal; os.kill(os.getpid(), signal.SIGINT); print('goes on')"), lines.append, lock)
    assert lines == ["goes on"]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_the_process_inherits_the_lock(lock):
    fcntl.flock(lock, fcntl.LOCK_EX)
    lines: list[str] = []
    run_process(python(f"import os; os.fstat({lock}); print('held')"), lines.append, lock)
    assert lines == ["held"]


def test_a_launcher_gives_its_workers_the_time_to_save_that_the_task_gives(lock):
    """torch's launcher kills workers 30 s after SIGTERM, where it is told nothing else."""
    program = "from torch.distributed.launcher.api import LaunchConfig as C; print(C(1, 1, 1).shutdown_timeout)"
    lines: list[str] = []
    run_process(python(program), lines.append, lock)
    assert lines[-1] == str(_GRACE_SECONDS)


def test_the_command_is_one_a_person_can_type(tmp_path):
    command = stage_command(
        "qwenlong_core.training.sft", ["--num_processes", "2"], Path("job.json"), {"data": tmp_path}, tmp_path
    )
    assert command[1:6] == ["-m", "accelerate.commands.launch", "--num_processes", "2", "-m"]
    assert command[6:9] == ["qwenlong_core.training.sft", "--job", "job.json"]
    assert f"--input=data={tmp_path}" in command


FREED = """
import torch
from pathlib import Path

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

torch.ones(6 * 2**20)  # 24 MiB, after which glibc would serve blocks of that size from its heap
kept, freed = [], []
for _ in range(20):
    freed.append(torch.ones(2 * 2**20))
    kept.append(torch.ones(2**18))
before = resident()
freed.clear()
print((before - resident()) / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and the setting is glibc's")
def test_memory_freed_between_kept_tensors_goes_back(lock, monkeypatch):
    def returned() -> float:
        lines: list[str] = []
        run_process(python(FREED), lines.append, lock)
        return float(lines[-1])

    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert returned() > 150, "of 160 MiB"
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    assert returned() < 80, "the user's own choice counts"
