"""A Slurm cluster on loopback for a test: munged, a controller, and two node daemons on this machine.

It needs Debian's packages ``slurm-wlm`` and ``munge``, and root, as which munged and the daemons run here.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "scontrol")
NODES = ("n1", "n2")


def missing() -> str | None:
    """Why no cluster can be started here."""
    if absent := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"no {', '.join(absent)}: apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "munged and slurmd are started as root"


def free_ports(count: int) -> list[int]:
    """Ports that are free, all at the same time."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Slurm:
    """The cluster; ``SLURM_CONF`` must name its :attr:`conf` for ``srun`` to find it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.conf = folder, folder / "slurm.conf"
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> Slurm:
        self._write()
        munge = [f"--{kind}={self.folder}/munge.{ending}" for kind, ending in
                 (("key-file", "key"), ("socket", "sock"), ("pid-file", "pid"), ("seed-file", "seed"))]  # fmt: skip
        self._daemon("munged", "--foreground", "--force", *munge)
        self._daemon("slurmctld", "-D", "-f", str(self.conf))
        for node in NODES:
            self._daemon("slurmd", "-D", "-f", str(self.conf), "-N", node)
        deadline = time.monotonic() + 60
        while self._idle() < len(NODES):
            assert time.monotonic() < deadline, "\n".join(path.read_text() for path in self.folder.glob("*.log"))
            time.sleep(0.2)
        return self

    def _write(self) -> None:
        (self.folder / "state").mkdir(parents=True)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        controller, *ports = free_ports(1 + len(NODES))
        host = socket.gethostname().partition(".")[0]
        lines = [
            "ClusterName=test", f"SlurmctldHost={host}(127.0.0.1)", f"SlurmctldPort={controller}",
            "SlurmUser=root", "AuthType=auth/munge", f"AuthInfo=socket={self.folder}/munge.sock",
            f"StateSaveLocation={self.folder}/state", f"SlurmdSpoolDir={self.folder}/%n",
            f"SlurmctldPidFile={self.folder}/controller.pid", f"SlurmdPidFile={self.folder}/%n.pid",
            "ProctrackType=proctrack/linuxproc", "TaskPlugin=task/none", "JobAcctGatherType=jobacct_gather/none",
            "SelectType=select/cons_tres", "SelectTypeParameters=CR_Core", "MpiDefault=none", "ReturnToService=2",
            *(f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2"
              for node, port in zip(NODES, ports, strict=True)),
            "PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP",
        ]  # fmt: skip
        self.conf.write_text("\n".join(lines) + "\n")

    def _daemon(self, *command: str) -> None:
        with (self.folder / f"{command[0]}-{len(self._daemons)}.log").open("wb") as log:
            self._daemons.append(
                subprocess.Popen(command, stdout=log, stderr=log, env=self.environment, start_new_session=True)
            )

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"SLURM_CONF": str(self.conf)}

    def _idle(self) -> int:
        command = ["sinfo", "--noheader", "--Node", "--states=idle", "--format=%N"]
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment)
        return len(done.stdout.split())

    def step_on(self, node: str) -> list[psutil.Process]:
        """The processes of this cluster's step on a node, below its ``slurmstepd``.

        Slurm 22.05 notices when they die. When ``slurmstepd`` itself is killed, ``srun`` waits for it without end.
        """
        for process in psutil.process_iter(["name"]):
            if process.info["name"] == "slurmstepd":
                for task in process.children():
                    variables = task.environ()
                    if (variables.get("SLURM_CONF"), variables.get("SLURMD_NODENAME")) == (str(self.conf), node):
                        return process.children(recursive=True)
        return []

    def stop(self) -> None:
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
