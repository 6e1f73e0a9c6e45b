"""Loopback goes through no proxy, whatever the client and the process, and a proxy in the way is named in seconds."""

from __future__ import annotations

import json
import os
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from qwenlong_core.endpoint import fault_of
from qwenlong_core.proxies import by_way_of, is_loopback, proxy_of, proxy_trouble, reached, spare_loopback

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


@contextmanager
def listening(handler: type[socketserver.BaseRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@contextmanager
def proxy(status: int | None) -> Iterator[tuple[str, list[str]]]:
    """A proxy that answers every request with this status, or hangs; and what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.command} {self.path}")
            if status is None:
                time.sleep(60)
            self.send_response(status or 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_PUT = do_HEAD = do_CONNECT = do_GET

        def log_message(self, *arguments: Any) -> None: ...

    with listening(Handler) as address:
        yield f"http://{address}", asked


@contextmanager
def server() -> Iterator[str]:
    """Answers everything with an empty JSON object."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(b"{}")

        do_POST = do_PUT = do_HEAD = do_GET

        def log_message(self, *arguments: Any) -> None: ...

    with listening(Handler) as address:
        yield address


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def through(address: str, *names: str) -> None:
    os.environ.update(dict.fromkeys(names or VARIABLES, address))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:5000", True),
        ("http://127.0.0.1", True),
        ("https://127.8.9.1:1/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://0.0.0.0:8000", True),
        ("http://judge.localhost", True),
        ("http://127.0.0.1.example.com", False),
        ("http://localhost.example.com", False),
        ("http://10.0.0.1", False),
        ("sqlite:///x.db", False),
        ("", False),
    ],
)
def test_what_loopback_is(url: str, expected: bool) -> None:
    assert is_loopback(url) is expected


CLIENTS = """
import asyncio, sys, urllib.request
from qwenlong_core.proxies import spare_loopback
address = sys.argv[1]
spare_loopback(f"http://{address}")
import boto3, httpx, mlflow, openai, requests
from botocore.config import Config
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
for host in (address, address.replace("127.0.0.1", "localhost")):
    url = f"http://{host}"
    assert httpx.get(url).json() == {} and requests.get(url).json() == {}
    assert urllib.request.urlopen(url).status == 200
    openai.OpenAI(base_url=url, api_key="k", max_retries=0).chat.completions.create(model="m", messages=[])
    mlflow.MlflowClient(url).search_experiments()
    keys = dict(aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1")
    once = Config(retries={"total_max_attempts": 1})
    boto3.client("s3", endpoint_url=url, config=once, **keys).head_bucket(Bucket="b")
    with temporary_settings({PREFECT_API_URL: f"{url}/api"}), get_client(sync_client=True) as client:
        assert client.hello().status_code == 200
print("done")
"""


@pytest.mark.parametrize("scheme", ["http", pytest.param("socks5", marks=pytest.mark.slow)])
def test_no_client_reaches_loopback_through_a_proxy(scheme: str) -> None:
    with proxy(502) as (address, asked), server() as served:
        through(address.replace("http", scheme, 1))
        # One process starts the other, which does not know this module: what counts is the environment.
        child = "import subprocess, sys; from qwenlong_core.proxies import spare_loopback; spare_loopback()\n"
        child += "sys.exit(subprocess.run([sys.executable, '-c', sys.argv[2], sys.argv[1]]).returncode)"
        done = subprocess.run([sys.executable, "-c", child, served, CLIENTS], capture_output=True, text=True)
        assert done.stdout.strip() == "done", done.stderr[-2000:]
        assert asked == []
        assert ("is not used: no client here speaks socks5" in done.stderr) == (scheme == "socks5")


def test_the_projects_own_clients_reach_other_loopback_addresses_directly(tmp_path: Path) -> None:
    from qwenlong.tasks.s3.client import connect
    from qwenlong_core.settings.running import S3Settings

    os.environ |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    with proxy(502) as (address, asked), server() as served:
        through(address)
        url = f"http://{served.replace('127.0.0.1', '127.0.0.2')}"
        assert reached(url) == url and "127.0.0.2" in os.environ["NO_PROXY"] and proxy_of(url) is None
        connect(S3Settings(endpoint_url=f"http://{served}")).head_bucket(Bucket="b")
        assert asked == []


def test_what_the_user_has_excepted_is_kept() -> None:
    os.environ |= {"no_proxy": "a.example", "NO_PROXY": "b.example, a.example", "HTTP_PROXY": "http://proxy:1"}
    spare_loopback()
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "a.example,b.example,localhost,127.0.0.1,::1"
    assert proxy_of("http://a.example/v1") is None and proxy_of("http://c.example") == "HTTP_PROXY=http://proxy:1"
    spare_loopback()
    assert os.environ["NO_PROXY"].count("localhost") == 1


@pytest.mark.parametrize(
    ("variable", "url", "found"),
    [
        ("HTTP_PROXY", "http://judge.example/v1", "HTTP_PROXY=http://proxy:3128"),
        ("https_proxy", "https://judge.example/v1", "https_proxy=http://proxy:3128"),
        ("ALL_PROXY", "https://judge.example/v1", "ALL_PROXY=http://proxy:3128"),
        ("HTTPS_PROXY", "http://judge.example/v1", None),
    ],
)
def test_the_proxy_is_named_without_its_password(variable: str, url: str, found: str | None) -> None:
    os.environ[variable] = "http://me:secret@proxy:3128"
    assert proxy_of(url) == found and "secret" not in by_way_of(url)


@pytest.mark.parametrize("status", [502, 503, 407, None])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_in_the_way_is_named_within_seconds(
    monkeypatch: pytest.MonkeyPatch, status: int | None, scheme: str
) -> None:
    monkeypatch.setattr("qwenlong_core.proxies._SECONDS", 0.5)
    with proxy(status) as (address, asked):
        through(address, "ALL_PROXY")
        with pytest.raises(ConnectionError) as caught:
            reached(f"{scheme}://judge.example/v1")
    told = str(caught.value)
    assert ("no answer in 0.5 seconds" if status is None else str(status)) in told
    assert f"through the proxy ALL_PROXY={address}; if it needs none, add judge.example to NO_PROXY" in told
    assert len(asked) == 1


def test_a_proxy_that_passes_requests_on_is_no_trouble() -> None:
    with proxy(200) as (address, asked):
        through(address, "HTTP_PROXY")
        assert proxy_trouble("http://judge.example/v1") is None and asked == ["GET http://judge.example/v1"]


def test_a_failed_request_of_a_judge_names_the_proxy() -> None:
    import openai

    with proxy(502) as (address, _):
        through(address, "HTTP_PROXY")
        client = openai.OpenAI(base_url="http://judge.example/v1", api_key="k", max_retries=0)
        with pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(model="m", messages=[])
        text = fault_of(caught.value, timeout_seconds=9).text
        assert f"HTTP 502: Error code: 502 (asked through the proxy HTTP_PROXY={address}" in text


def command(*arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qwenlong.flows.cli", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
    )


@pytest.mark.slow
def test_doctor_names_the_proxy_before_every_service(tmp_path: Path) -> None:
    judge = 'rewards.judge={base_url="http://judge.example/v1", model="m"}'
    with proxy(502) as (address, asked):
        done = command(
            *("doctor", "--profile", "smoke", "--json", "--set", judge, "--set", "tracking.uri=http://mlflow.example"),
            folder=tmp_path,
            HTTP_PROXY=address,
        )
    mends = {finding["topic"]: finding["mend"] for finding in json.loads(done.stdout) if not finding["ok"]}
    assert done.returncode == 1 and set(mends) == {"training judge", "MLflow"}
    assert all(f"HTTP_PROXY={address}" in mend for mend in mends.values())
    assert sorted(asked) == ["GET http://judge.example/v1", "GET http://mlflow.example/"]
