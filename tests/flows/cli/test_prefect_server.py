"""Which Prefect server a run uses: never one of another folder that merely listens at the port of ``prefect.toml``."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import prefect
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from qwenlong.flows.cli.doctor import _prefect
from qwenlong.flows.cli.environment import other_home, prefect_api
from qwenlong.flows.door import require_deployments
from qwenlong_core.settings.profiles import load_settings


@contextmanager
def server(home: Path | None) -> Iterator[str]:
    """What a run asks of a server: whether it is up, and its settings."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path in ("/api/health", "/api/admin/version") or (self.path == "/api/admin/settings" and home)
            told = {"home": str(home)} if self.path.endswith("settings") else prefect.__version__
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(json.dumps(told).encode())

        def log_message(self, *_: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}/api"
    finally:
        listening.shutdown()


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "own"))
    return tmp_path / "own"


def test_a_server_of_another_folder_is_refused_unless_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(tmp_path / "theirs") as url, temporary_settings({PREFECT_API_URL: url}):
        said = f"{url} keeps its state in .*theirs, not in .*own: it is another"
        with pytest.raises(ValueError, match=said), prefect_api():
            pass
        finding = _prefect()
        assert not finding.ok and f"export PREFECT_API_URL={url}" in finding.mend
        monkeypatch.setenv("PREFECT_API_URL", url)
        with prefect_api() as used:
            assert used == url and _prefect().ok


def test_the_own_server_and_one_that_does_not_tell_are_used(own_home: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(own_home)
    for home in (own_home, tmp_path / "link", None):
        with server(home) as url, temporary_settings({PREFECT_API_URL: url}), prefect_api() as used:
            assert used == url and other_home(url) is None and _prefect().ok


def test_a_teams_server_is_not_asked(tmp_path: Path) -> None:
    assert other_home("http://prefect.invalid/api") is None


def test_a_deployment_that_the_server_does_not_have_is_refused_before_anything_runs(tmp_path: Path) -> None:
    settings = load_settings("smoke", ["execution.deployments={grpo='stage/nope'}"])
    with server(tmp_path) as url, temporary_settings({PREFECT_API_URL: url}):
        with pytest.raises(ValueError, match=r"grpo = 'stage/nope', which Prefect at .* does not have: apply it"):
            require_deployments(settings)
        require_deployments(load_settings("smoke"))
