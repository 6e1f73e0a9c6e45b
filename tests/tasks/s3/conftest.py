"""A bucket store on a real S3 server on loopback."""

from __future__ import annotations

import pytest
from bucket_stores import MIB

from qwenlong.tasks.s3.store import S3Store
from qwenlong_core.settings.running import S3Settings


@pytest.fixture
def settings(s3_server) -> S3Settings:
    return S3Settings(endpoint_url=s3_server.endpoint, part_bytes=5 * MIB, max_concurrency=4)


@pytest.fixture
def store(bucket, settings, tmp_path) -> S3Store:
    return S3Store(f"s3://{bucket}/project", settings, tmp_path / "cache")


@pytest.fixture
def raw(s3_server):
    """A plain client, to look at the bucket without the store."""
    return s3_server.client()
