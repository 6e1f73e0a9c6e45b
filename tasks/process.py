"""Run a stage's process. Its lines go to the log as they are written, and it never outlives its task."""

from __future__ import annotations

import collections
import contextlib
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from qwenlong_core.errors import QwenlongError, Refused
from qwenlong_core.interpreter import executable
from qwenlong_core.stage_main import REFUSED

_GRACE_SECONDS = 60
"""Time a training process has to save at its step boundary after SIGTERM."""

_TAIL = 15
"""Last lines of a process that are shown when it fails."""

HEAP = {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=4194304:glibc.malloc.hugetlb=1"}
"""Settings of glibc's allocator that return a freed tensor's memory to the system at once.

By default glibc serves blocks of up to 32 MiB from a heap. Gradient checkpointing keeps each layer's output
there, between that layer's freed tensors, so the heap grows to several times the memory in use. With a fixed
threshold, larger blocks are mapped one by one. Huge pages keep that cheap (measured in ``docs/speed.md``).
"""

_QUIET = {
    # torch's launcher kills its workers after 30 s by default, before a large model has saved.
    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(_GRACE_SECONDS),
    "PYTHONUNBUFFERED": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
FIXED_VARIABLES = HEAP | _QUIET
"""The variables of a stage's process that are the same everywhere."""


class ProcessFailed(QwenlongError, RuntimeError):
    """A stage's process ended with an error that a retry may mend."""


class StageRefused(Refused):
    """A stage refused its settings or data; a retry cannot help."""


def reason_of(error: Exception) -> str:
    """The last line of an error's message, which says what was wrong."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip()


def stage_command(
    module: str,
    launch_options: Sequence[str] | None,
    job: Path,
    inputs: dict[str, Path],
    work: Path,
    *,
    python: str | None = None,
    judge: str | None = None,
    across: Sequence[str] = (),
) -> list[str]:
    """The command of a stage: ``python -m MODULE ...`` or ``accelerate launch -m MODULE ...``.

    Args:
        launch_options: options of ``accelerate launch``; ``None`` starts plain Python.
        python: the interpreter (``launch.python``); ``None`` for this one.
        judge: where the judge runs that was started for the stage.
        across: what starts the rest on every machine (``launch.across``).
    """
    start = [*across, executable(python), "-m"]
    if launch_options is not None:
        start += ["qwenlong_core.node" if across else "accelerate.commands.launch", *launch_options, "-m"]
    start.append(module)
    given = [f"--input={name}={path}" for name, path in inputs.items()]
    asks = [] if judge is None else ["--judge-url", judge]
    return [*start, "--job", str(job), *given, *asks, "--work", str(work)]


@contextlib.contextmanager
def shielded_from_ctrl_c() -> Iterator[None]:
    """Processes started inside do not get Ctrl-C, which a terminal sends to all of its processes at once.

    This process ends them instead, in order: a training saves first, and Prefect's server stays until the end of
    the run is recorded. Other signals, such as that of a closed terminal, still reach them.
    """
    # A child process inherits the signal mask.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_or_refuse(
    command: Sequence[str],
    name: str,
    work: Path,
    on_line: Callable[[str], None],
    *keep_open: int,
    silent_minutes: float = math.inf,
) -> None:
    """Run a stage's command, and tell a refusal of its settings or data from a failure.

    Args:
        name: the stage's name, for the message.
        work: its ``--work`` folder.
        on_line, keep_open, silent_minutes: see :func:`run_process`.

    Raises:
        StageRefused: the stage refused; a retry cannot help.
        ProcessFailed: see :func:`run_process`.
    """
    try:
        run_process(command, on_line, *keep_open, silent_minutes=silent_minutes)
    except ProcessFailed:
        # Told by a file, because a launcher replaces the exit status of the process that it started.
        if (refused := work / REFUSED).is_file():
            raise StageRefused(f"{name}: {refused.read_text()}") from None
        raise


def run_process(
    command: Sequence[str], on_line: Callable[[str], None], *keep_open: int, silent_minutes: float = math.inf
) -> None:
    """Run ``command`` to its end.

    Args:
        on_line: takes every line that it writes to stdout or stderr.
        keep_open: descriptors that the process inherits: of a held lock, of a judge's lifeline.
        silent_minutes: it is ended when it has written no line for so long.

    Raises:
        ProcessFailed: it ended with a non-zero status, or was silent; the message holds its last lines.
    """
    tail: collections.deque[str] = collections.deque(maxlen=_TAIL)
    with shielded_from_ctrl_c():
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=_environment(command),
            pass_fds=keep_open,
        )
    assert process.stdout is not None
    silence = _Silence(process.pid, 60 * silent_minutes)
    try:
        for line in process.stdout:
            silence.broken()
            if line := line.rstrip():
                tail.append(line)
                on_line(line)
        status = process.wait()
    finally:
        # Reached with the process alive when this task is cancelled or interrupted.
        killed = process.poll() is None and _end_tree(process.pid)
        process.stdout.close()
        silence.stop()
        if killed:
            on_line(
                f"killed: it did not save and end within {_GRACE_SECONDS} s of SIGTERM, so what it did since its last "
                "whole checkpoint is lost"
            )
    # The watch may be first to collect the status of what it has ended; Popen then reports 0.
    if status or silence.acted:
        shown, begin = "\n  ".join(tail), " ".join([Path(command[0]).name, *command[1:4]])
        why = f"was ended after {silent_minutes:g} silent minutes" if silence.acted else f"ended with status {status}"
        raise ProcessFailed(f"`{begin} ...` {why}; its last lines:\n  {shown}")


class _Silence:
    """Ends a process that has written nothing for some seconds."""

    def __init__(self, pid: int, seconds: float) -> None:
        self.acted = False
        self._pid, self._seconds, self._last, self._stop = pid, seconds, time.monotonic(), threading.Event()
        if seconds < math.inf:
            threading.Thread(target=self._watch, name="silence", daemon=True).start()

    def broken(self) -> None:
        self._last = time.monotonic()

    def stop(self) -> None:
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(min(self._seconds / 10, 60)):
            if time.monotonic() - self._last > self._seconds:
                self.acted = True
                _end_tree(self._pid)
                return


def _environment(command: Sequence[str]) -> dict[str, str]:
    """The variables of a stage's process.

    Its interpreter's folder stands first in ``PATH``, as in an activated environment: vLLM compiles kernels with the
    ``ninja`` that is installed beside it. A launcher is found beside this interpreter.
    """
    beside = command[0] if command[1:2] == ["-m"] else sys.executable
    path = os.pathsep.join(filter(None, [str(Path(beside).parent), os.environ.get("PATH")]))
    return HEAP | os.environ | _QUIET | {"PATH": path}  # a person's own GLIBC_TUNABLES wins


def _end_tree(pid: int) -> bool:
    """Send SIGTERM to a process and all its descendants, and SIGKILL to those left after the grace period.

    Returns:
        Whether any was left.
    """
    try:
        parent = psutil.Process(pid)
        processes = [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        return False
    if parent.name() == "srun":
        # At SIGTERM it kills its tasks. It passes SIGUSR1 on, at which `qwenlong_core.node` ends them in order.
        _signal(lambda: parent.send_signal(signal.SIGUSR1))
        psutil.wait_procs([parent], timeout=_GRACE_SECONDS)
    # Each is signalled by itself, because a launcher does not always pass signals on.
    for process in processes:
        _signal(process.terminate)
    _, alive = psutil.wait_procs(processes, timeout=_GRACE_SECONDS)
    for process in alive:
        _signal(process.kill)
    return bool(alive)


def _signal(send: Callable[[], None]) -> None:
    # It may have ended by itself in the meantime.
    with contextlib.suppress(psutil.NoSuchProcess):
        send()
