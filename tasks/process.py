"""Run a stage's process: its lines go to the log as they come, and it never outlives its task."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from qwenlong_core.errors import QwenlongError, Refused

_GRACE_SECONDS = 60
"""Time a training process has to save at its step boundary after SIGTERM."""

_TAIL = 15

HEAP = {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=4194304:glibc.malloc.hugetlb=1"}
"""A freed tensor's memory goes back to the system at once.

By itself glibc serves blocks of up to 32 MiB from a heap, where the outputs that gradient checkpointing keeps of
every layer stand between that layer's freed tensors: the heap grows to several times of what lives in it. With
a fixed limit larger blocks are mapped one by one, on huge pages, which keeps the cost small (``docs/speed.md``).
"""

_ENVIRONMENT = {
    # torch's launcher would kill its workers after 30 s.
    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(_GRACE_SECONDS),
    "PYTHONUNBUFFERED": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


class ProcessFailed(QwenlongError, RuntimeError):
    """A stage's process ended with an error that a retry may mend."""


class StageRefused(Refused):
    """A stage refused its settings or data; a retry cannot help."""


def reason_of(error: Exception) -> str:
    """The last line of an error's message, which says what was wrong."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip()


def stage_command(
    module: str, launch_options: Sequence[str] | None, job: Path, inputs: dict[str, Path], work: Path
) -> list[str]:
    """The command of a stage: ``python -m MODULE ...`` or ``accelerate launch -m MODULE ...``.

    ``launch_options`` are the options of ``accelerate launch``; ``None`` starts plain Python.
    """
    if launch_options is None:
        start = [sys.executable, "-m", module]
    else:
        start = [sys.executable, "-m", "accelerate.commands.launch", *launch_options, "-m", module]
    given = [f"--input={name}={path}" for name, path in inputs.items()]
    return [*start, "--job", str(job), *given, "--work", str(work)]


@contextlib.contextmanager
def beyond_ctrl_c() -> Iterator[None]:
    """What is started in here does not see Ctrl-C, which a terminal sends to all of its processes at once.

    Whoever started them ends them, in order: a training saves first, and Prefect's server is there until the end
    of the run is told. The signal mask is inherited; a closed terminal's signal still reaches all.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_process(command: Sequence[str], on_line: Callable[[str], None], keep_open: int) -> None:
    """Run ``command`` to its end, handing over every line it writes.

    Args:
        keep_open: descriptor of a held lock, which the process inherits.

    Raises:
        ProcessFailed: it ended with a non-zero status; the message holds its last lines.
    """
    tail: collections.deque[str] = collections.deque(maxlen=_TAIL)
    with beyond_ctrl_c():
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=HEAP | os.environ | _ENVIRONMENT,
            pass_fds=(keep_open,),
        )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line := line.rstrip():
                tail.append(line)
                on_line(line)
        status = process.wait()
    finally:
        # Reached with the process alive when this task is cancelled or interrupted.
        if process.poll() is None:
            _end_tree(process.pid)
        process.stdout.close()
    if status:
        shown = "\n  ".join(tail)
        raise ProcessFailed(f"`{' '.join(command[1:4])} ...` ended with status {status}; its last lines:\n  {shown}")


def _end_tree(pid: int) -> None:
    """SIGTERM a process and all below it, and SIGKILL what is left after the grace time.

    The children are signalled by themselves because a launcher does not always pass signals on.
    """
    try:
        parent = psutil.Process(pid)
        processes = [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        return
    for process in processes:
        _signal(process.terminate)
    _, alive = psutil.wait_procs(processes, timeout=_GRACE_SECONDS)
    for process in alive:
        _signal(process.kill)


def _signal(send: Callable[[], None]) -> None:
    # It may have ended by itself in between, which is what was wanted.
    with contextlib.suppress(psutil.NoSuchProcess):
        send()
