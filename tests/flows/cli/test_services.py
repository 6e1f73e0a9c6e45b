"""A service of ``qwenlong serve`` that dies is started again, and not for ever."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from qwenlong.flows.cli.environment import is_up
from qwenlong.flows.cli.serve import Services
from qwenlong.tasks.process import ProcessFailed


def listener(port: int) -> int:
    """The process that listens at a port, by its command."""
    found = subprocess.run(["pgrep", "-f", f"http.server {port}"], capture_output=True, text=True).stdout.split()
    return int(found[0])


def test_a_service_that_is_killed_is_started_again(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    url, failed = f"http://127.0.0.1:{port}/", []
    with Services(dict(os.environ), tmp_path / "logs") as services:
        services.start("server", ["http.server", str(port), "--bind", "127.0.0.1"], url)

        def wait() -> None:
            try:
                services.wait()
            except ProcessFailed as error:
                failed.append(str(error))

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        for kills in range(1, 5):
            first = listener(port)
            os.kill(first, signal.SIGKILL)
            deadline = time.monotonic() + 30
            while not failed and not (is_up(url) and listener(port) != first):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert bool(failed) == (kills == 4)
        thread.join(10)
    assert "server ended with status -9, for the 4th time" in failed[0]


def test_a_module_that_cannot_start_is_named_with_its_log(tmp_path: Path) -> None:
    with (
        pytest.raises(ProcessFailed, match=r"broken did not start: see .*broken.log"),
        Services(dict(os.environ), tmp_path) as services,
    ):
        services.start("broken", ["no_such_module_" + sys.platform], "http://127.0.0.1:9/")
