"""The hosts of other tests are hosts: nothing is shared but the network, and one that is lost is gone at once."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hosts import Host, Network, missing

ABOUT = """
import pathlib, psutil, socket
pathlib.Path("mine").write_text(f"{socket.gethostname()} {len(psutil.pids())} {[*pathlib.Path('../disks').iterdir()]}")
"""
SERVER = "import http.server as h; h.ThreadingHTTPServer(('', 80), h.SimpleHTTPRequestHandler).serve_forever()"


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[list[Host]]:
    if reason := missing():
        pytest.skip(reason)
    made = [Host(tmp_path, name) for name in "ab"]
    yield made
    for host in made:
        host.off()


def test_each_has_a_disk_a_name_and_processes_of_its_own(hosts: list[Host]) -> None:
    a, b = hosts
    a.run("-c", ABOUT)
    assert (a.disk / "mine").read_text() == "a 2 []"
    assert a.files() == ["mine"] and b.files() == []


def test_one_that_is_lost_falls_silent_with_all_its_processes(hosts: list[Host]) -> None:
    a, b = hosts
    network = Network(a, b)
    server, deadline = a.start("server", "-c", SERVER), time.monotonic() + 20
    asks = "import urllib.request as u; u.urlopen('http://{}/').read()"
    while socket.socket().connect_ex((network.address, 80)):
        assert time.monotonic() < deadline, a.log("server")
        time.sleep(0.1)
    b.run("-c", asks.format(network.address))
    b.start("waits", "-c", "import subprocess; subprocess.run(['setsid', '--fork', 'sleep', '600'])").wait()
    [sleeping] = [child for child in b.init.children(recursive=True) if child.name() == "sleep"]
    network.lose(b)
    assert not sleeping.is_running() or sleeping.status() == psutil.STATUS_ZOMBIE
    assert server.poll() is None
    a.off()
    assert server.wait(10) != 0
