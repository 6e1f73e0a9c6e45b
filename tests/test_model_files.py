"""A model that is not there, or not whole, is refused with its name before anything runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from qwenlong_core.model_files import require_model_files


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def without_kind(path: Path) -> None:
    path.write_text(
        json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "model_type"})
    )


DAMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "cut off": ("config.json", lambda path: path.write_text('{"model_type": "lla'), "config.json cannot be used"),
    "empty": ("config.json", lambda path: path.write_text(""), "config.json cannot be used"),
    "a list": ("config.json", lambda path: path.write_text("[1]"), "config.json cannot be used"),
    "not text": ("config.json", lambda path: path.write_bytes(b"\xff\xfe\x00"), "config.json cannot be used"),
    "without kind": ("config.json", without_kind, "config.json cannot be used"),
    "unknown kind": (
        "config.json",
        lambda path: path.write_text('{"model_type": "nope"}'),
        "config.json cannot be used",
    ),
    "missing": ("config.json", Path.unlink, "config.json cannot be used"),
    "no weights": ("model.safetensors", Path.unlink, "there is no file of weights"),
    "cut weights": ("model.safetensors", cut, "model.safetensors is damaged or cut off"),
    "empty weights": ("model.safetensors", lambda path: path.write_text(""), "model.safetensors is damaged or cut off"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_folder_that_is_no_whole_model_is_refused(damage: str, policy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    shutil.copytree(policy, folder)
    require_model_files(folder)
    name, spoil, said = DAMAGES[damage]
    spoil(folder / name)
    with pytest.raises(ValueError, match=rf"^model\.name='{folder}': {said}.*: name a whole folder"):
        require_model_files(folder)


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does: ``gone/*`` is not there, ``closed/*`` is gated, ``shut/*`` a proxy forbids."""

    def do_HEAD(self) -> None:
        owner = self.path.split("/")[1]
        codes = {"gone": (404, "RepoNotFound"), "closed": (403, "GatedRepo"), "old": (404, "RevisionNotFound")}
        status, code = codes.get(owner, (403, ""))
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


ASK = """
import sys
from qwenlong_core.settings.model import ModelSettings
if sys.argv[1] == "plan":
    from qwenlong_core.plan.models import shape_of as ask
else:
    from qwenlong_core.models import _from_hub_or_folder as ask
for name in sys.argv[2:]:
    try:
        ask(ModelSettings(name=name, revision="v2"))
    except Exception as error:
        print(f"{name}|{type(error).__name__}|{' '.join(str(error).split())}")
"""
REFUSED = {
    "gone/model": "the hub has no such model",
    "closed/model": "accept its terms on the hub",
    "old/model": "no revision 'v2'",
    "no/such/folder": "there is no such folder, and no hub id has this form",
}


@pytest.mark.parametrize("who", ["plan", pytest.param("base", marks=pytest.mark.slow)])
def test_what_the_hub_does_not_have_is_refused_and_a_hub_that_is_away_is_not(
    who: str, hub: str, tmp_path: Path
) -> None:
    environment = os.environ | {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", ASK, who, *REFUSED, "shut/model"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    said = {name: (kind, text) for name, kind, text in (line.split("|") for line in done.stdout.splitlines())}
    assert said.keys() == {*REFUSED, "shut/model"}, done.stderr[-2000:]
    for name, words in REFUSED.items():
        kind, text = said[name]
        assert kind == "ValueError" and text.startswith(f"model.name={name!r}: ") and words in text, text
    assert said["shut/model"][0] == "ConnectionError"
