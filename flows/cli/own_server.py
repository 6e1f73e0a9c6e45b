"""Prefect's server of one run: ``python -m qwenlong.flows.cli.own_server PID uvicorn-options``.

It leaves the run's process group, because a supervisor and a terminal send signals to the whole group and the run must
still report its end. It stops by itself when the process PID, which started it, is gone.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

_LOOK_SECONDS = 2.0


def _stop_after(parent: int) -> None:
    # An orphan gets another parent.
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    os.setsid()
    threading.Thread(target=_stop_after, args=(int(sys.argv.pop(1)),), daemon=True).start()
    runpy.run_module("uvicorn", run_name="__main__", alter_sys=True)
