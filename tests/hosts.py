"""Hosts on this machine for a test: each has a network, processes, a disk and a name of its own, by Linux's namespaces.

Only root can make them, and nothing stays of them when the test's process ends, in whatever way. On all hosts the disk
is the same folder ``HOME/disk``; the test finds each disk in ``HOME/disks``, which the hosts do not see.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

PROGRAMS = ("unshare", "nsenter", "mount", "ip")
_OWN = ("--net", "--mount", "--uts", "--pid")
_UNSHARE = ("unshare", *_OWN, "--fork", "--kill-child", "--mount-proc", "sh", "-ec")
_TRY = "ip link add switch type bridge; ip link add port type veth peer name cable"
_BEGIN = """
hostname "$1"
mount --bind "$2/disks/$1" "$2/disk"
mount -t tmpfs none "$2/disks"
ip link set lo up
exec "$3" -c "$4"
"""
_INIT = """
import signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who loses its parent becomes a child of this: no zombies
print("up", flush=True)
sys.stdin.read()  # until the test's process closes it, or dies
"""


def missing() -> str | None:
    """Why no hosts can be made here."""
    if absent := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"no {', '.join(absent)}: apt-get install util-linux iproute2"
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    done = subprocess.run([*_UNSHARE, _TRY], capture_output=True, text=True)
    return f"no network namespaces can be made here: {done.stderr.strip()}" if done.returncode else None


class Host:
    """A host that runs until it is lost. Its processes see no other's, and end with it."""

    def __init__(self, home: Path, name: str) -> None:
        self.name, self.mount, self.disk, self.logs = name, home / "disk", home / "disks" / name, home / "logs"
        for folder in (self.mount, self.disk / "tmp", self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        self.environment: dict[str, str] = {}
        first = [*_UNSHARE, _BEGIN, "sh", name, str(home), sys.executable, _INIT]
        with self._log_file("init").open("ab") as log:
            self._unshare = subprocess.Popen(first, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        assert self._unshare.stdout is not None and self._unshare.stdout.readline() == b"up\n", self.log("init")
        [self.init] = psutil.Process(self._unshare.pid).children()

    def network(self, *command: str) -> None:
        """Let ``ip`` change the host's network."""
        subprocess.run(["nsenter", f"--target={self.init.pid}", "--net", "ip", *command], check=True)

    def run(self, *arguments: str) -> None:
        """Run ``python arguments`` to its end, in the folder of its disk."""
        done = subprocess.run(self._inside(arguments), env=self._variables(), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start ``python arguments``; its output goes to a log of that name."""
        with self._log_file(name).open("ab") as log:
            return subprocess.Popen(self._inside(arguments), env=self._variables(), stdout=log, stderr=log)

    def log(self, name: str) -> str:
        return self._log_file(name).read_text(errors="replace")

    def files(self, below: str = ".") -> list[str]:
        """The files on its disk."""
        return sorted(str(path.relative_to(self.disk)) for path in (self.disk / below).rglob("*") if path.is_file())

    def off(self) -> None:
        """As when the power fails: the kernel kills whatever runs there with the first process."""
        if self._unshare.poll() is None:
            self.init.kill()
            self._unshare.communicate()

    def _log_file(self, name: str) -> Path:
        return self.logs / f"{self.name}-{name}.log"

    def _inside(self, arguments: tuple[str, ...]) -> list[str]:
        enter = ["nsenter", f"--target={self.init.pid}", *_OWN, "env", f"--chdir={self.mount}"]
        return [*enter, sys.executable, *arguments]

    def _variables(self) -> Mapping[str, str]:
        return os.environ | {"HOME": str(self.mount), "TMPDIR": str(self.mount / "tmp")} | self.environment


class Network:
    """A switch on the first host, with a cable to each other one and to the test's own process."""

    def __init__(self, first: Host, *others: Host) -> None:
        self._switch = first
        self._prefix = f"198.18.{os.getpid() % 256}"  # addresses that are set aside for tests (RFC 2544)
        self.address = f"{self._prefix}.1"
        """The first host's."""
        first.network("link", "add", "switch", "type", "bridge")
        first.network("addr", "add", f"{self.address}/24", "dev", "switch")
        first.network("link", "set", "dev", "switch", "up")
        for number, host in enumerate(others, 2):
            self._plug(host.name, "eth0", host.init.pid, number)
        self._plug("test", f"test{os.getpid()}", os.getpid(), 254)

    def _plug(self, port: str, card: str, pid: int, number: int) -> None:
        ends = ("name", port, "type", "veth", "peer", "name", card, "netns", str(pid))
        self._switch.network("link", "add", *ends)
        self._switch.network("link", "set", "dev", port, "master", "switch", "up")
        there = ("nsenter", f"--target={pid}", "--net", "ip")
        subprocess.run([*there, "addr", "add", f"{self._prefix}.{number}/24", "dev", card], check=True)
        subprocess.run([*there, "link", "set", "dev", card, "up"], check=True)

    def lose(self, host: Host) -> None:
        """Pull its cable, so that nobody hears of its end, then kill everything on it."""
        self._switch.network("link", "set", "dev", host.name, "down")
        host.off()
