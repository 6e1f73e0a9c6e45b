"""One machine's part of a training that runs on several: ``accelerate launch`` that finds the others.

A launcher (``launch.across``) starts the same command on every machine::

    srun --nodes=4 --ntasks-per-node=1 python -m qwenlong_core.node --num_machines 4 ... -m MODULE --job job.json ...

The machines meet at an address that all can work out: ``MASTER_ADDR`` and ``MASTER_PORT`` if they are set, else the
first machine of the Slurm step. torch's c10d rendezvous numbers them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from qwenlong_core.stage_main import REFUSED

_START_SECONDS = 1200
"""How long machines wait for each other at the start: one may pull an image that another has."""


def meeting(machines: int, variables: Mapping[str, str]) -> list[str]:
    """Options of ``accelerate launch`` with which ``machines`` machines find each other.

    Raises:
        ValueError: the launcher started another number of machines, or nothing says where they meet.
    """
    started = variables.get("SLURM_STEP_NUM_TASKS")
    if started is not None and int(started) != machines:
        raise ValueError(
            f"launch.num_machines={machines}, but srun started {started} task(s): launch.across needs "
            f"--nodes={machines} and --ntasks-per-node=1"
        )
    if machines == 1:
        return []
    host, port = _address(variables)
    conf = f"read_timeout={_START_SECONDS},join_timeout={_START_SECONDS}"
    index = variables.get("SLURM_NODEID", variables.get("JOB_COMPLETION_INDEX"))
    if index is not None:  # else torch compares the address with this machine's
        conf += f",is_host={str(index == '0').lower()}"
    options = ["--rdzv_backend", "c10d", "--rdzv_conf", conf, "--main_process_ip", host, "--main_process_port", port]
    # The rank is not used. accelerate takes 0 to mean that nobody listens at the port yet, which may be wrong by now.
    return [*options, "--machine_rank", "1"]


def _address(variables: Mapping[str, str]) -> tuple[str, str]:
    if "MASTER_ADDR" in variables:
        return variables["MASTER_ADDR"], variables.get("MASTER_PORT", "29500")
    if "SLURM_STEP_NODELIST" not in variables:
        raise ValueError(
            "the machines of this training cannot find each other: start them with srun, or set MASTER_ADDR (and "
            "MASTER_PORT) to one address on all of them"
        )
    first = _ask("hostnames", variables["SLURM_STEP_NODELIST"]).split()[0]
    about = dict(part.partition("=")[::2] for part in _ask("node", first, "--oneliner").split())
    # Below the ports that the system gives out itself, and another one for each step of a job.
    port = 20_000 + (int(variables["SLURM_JOB_ID"]) * 64 + int(variables["SLURM_STEP_ID"])) % 12_000
    return about["NodeAddr"], str(port)


def _ask(*question: str) -> str:
    return subprocess.run(["scontrol", "show", *question], capture_output=True, text=True, check=True).stdout


def run(command: list[str]) -> int:
    """Run a command to its end and return its status. SIGTERM and SIGUSR1 end it in order."""
    # Slurm sends SIGUSR1 to every process of a task; an ignored signal stays ignored in child processes.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    process = subprocess.Popen(command)

    def end(*_: object) -> None:
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(process.pid)
            # Each by itself: `accelerate launch` passes no signal on to a single process.
            for one in (*parent.children(recursive=True), parent):
                with suppress(psutil.NoSuchProcess):
                    one.terminate()

    for name in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(name, end)
    status = process.wait()
    return status if status >= 0 else 128 - status


def main(options: list[str]) -> int:
    """Run ``accelerate launch`` with these options, which name the stage's module and its own options."""
    os.environ["PATH"] = os.pathsep.join(filter(None, [str(Path(sys.executable).parent), os.environ.get("PATH")]))
    try:
        found = meeting(int(options[options.index("--num_machines") + 1]), os.environ)
    except ValueError as error:
        work = Path(options[options.index("--work") + 1])
        (work / REFUSED).write_text(str(error))
        print(error, file=sys.stderr)
        return 2
    return run([sys.executable, "-m", "accelerate.commands.launch", *found, *options])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
