"""The operator's hour as docs/operations.md tells it: its commands, in its order, by an installed wheel.

Only the libraries come from this environment, the ports are free ones, and where no browser is installed the form's
fields are sent to Prefect as the page sends them.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import chromium, missing
from installation import built, installed
from receivers import webhook
from serving import ask, deployment, flow_runs, kill_stage, made_in, restart_in_browser, serving, wait_for

from qwenlong_core.store.fingerprint import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def commands() -> list[list[str]]:
    """The commands of the page's section, in its order, as words."""
    section = (ROOT / "docs/operations.md").read_text(encoding="utf-8").split("\n## An operator's hour\n")[1]
    blocks = re.findall(r"^```console\n(.*?)^```$", section.split("\n## ")[0], re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


class Operator:
    """Somebody with the page in hand, an empty folder and the installed programs."""

    def __init__(self, home: Path, programs: Path, hook: int) -> None:
        self.home, self.programs, self.left = home, programs, commands()
        # Prefect's own program is a library's, and lies beside this environment's interpreter.
        path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
        own = {"PATH": path, "OPS_HOOK": f"json://127.0.0.1:{hook}/", "PREFECT_HOME": str(home / ".qwenlong/prefect")}
        self.environment = os.environ | own
        self.seconds: dict[str, int] = {}
        self._last = time.monotonic()

    def next(self, *first: str, **known: str) -> list[str]:
        """The page's next command, which must begin so; words in capitals are what is known by then."""
        words = self.left.pop(0)
        assert tuple(words[: len(first)]) == first, "the page has another order"
        return [re.sub(r"\b[A-Z]{3,}\b", lambda word: known.get(word[0], word[0]), one) for one in words]

    def do(self, *first: str, **known: str) -> str:
        """Run the page's next command; returns what it printed."""
        done = subprocess.run(
            self.next(*first, **known), cwd=self.home, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        self.lap(" ".join(first))
        return done.stdout

    def lap(self, what: str) -> None:
        self.seconds[f"{len(self.seconds) + 1} {what}"] = round(time.monotonic() - self._last)
        self._last = time.monotonic()


@pytest.fixture
def hour(tmp_path: Path) -> Iterator[tuple[Operator, list[dict[str, Any]]]]:
    programs = installed(built(tmp_path / "source", tmp_path / "wheel"), tmp_path / "venv")
    (tmp_path / "home").mkdir()
    with webhook() as (port, posts):
        operator = Operator(tmp_path / "home", programs, port)
        yield operator, posts
        print(json.dumps(operator.seconds))


def start_again(pages: dict[str, str], failed: dict[str, Any], stage: str) -> str:
    """Take the failed run up again from a stage, in the form; returns the new run's id."""
    if missing() is None:
        with chromium() as browser:
            page = browser.new_page(viewport={"width": 1280, "height": 1600})
            page.set_default_timeout(60_000)
            restart_in_browser(page, pages, failed["id"], stage)
    else:
        where = f"deployments/{deployment(pages, 'full-pipeline')['id']}/create_flow_run"
        ask(pages, where, parameters=failed["parameters"] | {"start": stage})
    [run] = [run["id"] for run in flow_runs(pages, "qwenlong") if run["id"] != failed["id"]]
    return str(run)


def titles(posts: list[dict[str, Any]]) -> list[str]:
    """What the webhook was told, without names of runs."""
    return [post["title"].removeprefix("qwenlong: ") for post in posts]


def test_an_hour_from_the_installation_to_the_export(hour) -> None:
    operator, posts = hour
    options = operator.next("qwenlong", "serve")[2:]
    program = [operator.programs / "qwenlong"]
    with serving(operator.home, *options, start=program, environment=operator.environment) as pages:
        operator.environment["PREFECT_API_URL"] = pages["api"]
        operator.lap("serve")
        operator.do("prefect", "deployment", "run", "qwenlong/full-pipeline")
        kill_stage(operator.home, "grpo-2")
        [first] = flow_runs(pages, "qwenlong")
        failed = wait_for(pages, first["id"], "FAILED", "COMPLETED")
        assert failed["state"]["type"] == "FAILED"
        operator.lap("a training killed")
        assert len(posts) == 1 and titles(posts)[0].endswith(": Failed") and first["id"] in posts[0]["message"]

        second = start_again(pages, failed, "grpo-2")
        assert wait_for(pages, second, "FAILED", "COMPLETED")["state"]["type"] == "COMPLETED"
        assert not made_in(pages, second) & {"base", "prepare", "sft", "grpo-1"}, "what is before it is taken over"
        operator.lap("restarted from the form")
        assert titles(posts)[1:] in (["REFUSED"], ["INCONCLUSIVE"], ["PROMOTED"])

        operator.do("prefect", "deployment", "run", "promote/promote")
        operator.do("prefect", "deployment", "run", "qwenlong/full-pipeline")
        assert titles(posts)[2:] in (["REFUSED"], ["INCONCLUSIVE"], ["PROMOTED"]), "each decision is told"
        compared = operator.do("qwenlong", "compare")
        assert "sft.learning_rate" in compared and (operator.home / "compared.html").is_file()
        operator.do("prefect", "deployment", "run", "promote/promote")
        said = operator.do("qwenlong", "rollback")
        assert "version 1" in said

        shown = json.loads(operator.do("qwenlong", "artifacts", "show"))
        operator.do("qwenlong", "export")
        card = (operator.home / "exported/README.md").read_text()
        assert shown["sha256"][:12] in card and (operator.home / "exported/model.safetensors").is_file()
        operator.do("qwenlong", "samples", DIGEST=shown["scores"][0]["sha256"])
        assert json.loads((operator.home / "answers.json").read_text())["status"] == "success"
        assert operator.left == [], "the page has more to do"
