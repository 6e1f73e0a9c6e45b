"""Keeps a server running for as long as somebody needs it::

    python -m qwenlong.tasks.keeper --port 23547 --start-seconds 900 --restarts 3 --log judge.log -- COMMAND ...

Its standard input is a pipe that nobody writes to. The pipe closes when the last process that holds its other end is
gone, however that one ended, SIGKILL included; then the keeper ends the server. SIGTERM does the same. A server that
dies is started again. What happens is a line on standard output: first ``ready``, or why the server did not start.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path

READY = "ready"
_LOOK_SECONDS = 0.2
_GRACE_SECONDS = 15.0
"""Time a server has to end after SIGTERM."""
_PR_SET_PDEATHSIG = 1


_told_to_end = threading.Event()


class _Ended(Exception):
    """The server is not needed any more."""


def _die_with_parent() -> None:
    """On Linux: the kernel ends the server if the keeper is killed."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        # A session of its own, so that its whole group can be ended: vLLM's engine is a child of the server.
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and what it has started."""
    for name, seconds in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, name)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(seconds)


def _answers(port: int, host: str) -> bool:
    connection = HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _until_ready(server: subprocess.Popen[bytes], host: str, port: int, seconds: float) -> str | None:
    """Wait until the server answers; returns why it does not, if it does not."""
    deadline = time.monotonic() + seconds
    while not _answers(port, host):
        if (status := _status_after_a_look(server)) is not None:
            return f"ended with status {status} before it answered"
        if time.monotonic() > deadline:
            return f"did not answer within {seconds / 60:g} minutes"
    return None


def _status_after_a_look(server: subprocess.Popen[bytes]) -> int | None:
    """Wait a moment; returns the server's exit status if it has ended.

    Raises:
        _Ended: the pipe on standard input has closed, or SIGTERM came.
    """
    if select.select([sys.stdin], [], [], _LOOK_SECONDS)[0] or _told_to_end.is_set():
        raise _Ended
    return server.poll()


def _say(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # the reader was killed, but a training that asks the server lives on
        print(line, flush=True)


def keep(command: list[str], log: Path, host: str, port: int, start_seconds: float, restarts: int) -> int:
    """Run the server until it is not needed; returns 1 if it does not start or has died too often."""
    server = None
    try:
        for left in range(restarts, -1, -1):
            server = _start(command, log)
            failure = _until_ready(server, host, port, start_seconds)
            if failure is None:
                _say(READY)
                while (status := _status_after_a_look(server)) is None:
                    pass
                failure = f"died with status {status}"
            elif left == restarts:
                _say(failure)  # what has never run is not tried again
                return 1
            _stop(server)
            again = f"starting it again, {left} time(s) left" if left else "it is not started again"
            _say(f"{failure}: {again}")
        return 1
    except _Ended:
        return 0
    finally:
        if server is not None:
            _stop(server)


def main() -> int:
    """Read the command line and keep the server."""
    parser = argparse.ArgumentParser(prog="python -m qwenlong.tasks.keeper")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--start-seconds", type=float, required=True)
    parser.add_argument("--restarts", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    # An exception from a signal handler could keep the server from being ended.
    signal.signal(signal.SIGTERM, lambda *_: _told_to_end.set())
    return keep(given.command, given.log, given.host, given.port, given.start_seconds, given.restarts)


if __name__ == "__main__":
    raise SystemExit(main())
