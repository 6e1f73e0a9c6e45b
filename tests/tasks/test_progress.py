"""The bar and the curves of a running stage on a real Prefect server."""

from __future__ import annotations

import pytest
from prefect import flow, get_client, task
from prefect.testing.utilities import prefect_test_harness

from qwenlong.tasks.progress import curves_artifact, progress_artifact
from qwenlong_core.settings.profiles import load_settings

pytestmark = pytest.mark.slow

LINES = [{"step": step, "total_steps": 4, "seconds": 1.0, "reward": step / 4} for step in (1, 2, 3, 4)]


def test_the_page_moves_while_the_stage_runs():
    seconds = iter([0.0, 0.0, 1.0, 20.0, 20.0, 21.0, 21.0])
    seen = []

    def curves() -> list[str]:
        with get_client(sync_client=True) as client:
            return [one.data for one in client.read_artifacts() if one.key == "curves-grpo-1"]

    @task
    def stage() -> None:
        draw = curves_artifact("grpo-1", load_settings("smoke"), clock=lambda: next(seconds))
        bar = progress_artifact("grpo-1")
        draw({"note": "no step"})
        for line in LINES:
            bar(line)
            draw(line)
            seen.append(curves())

    @flow
    def run() -> None:
        stage()

    with prefect_test_harness(server_startup_timeout=240):
        run()
    steps = [[page.split("Step ")[1].split(" ")[0] for page in pages] for pages in seen]
    assert steps == [["1"], ["1"], ["3"], ["4"]], (
        "one artifact, written at once, then every five seconds, and at the end"
    )
    assert "| reward | 0.25 | 1 |" in seen[-1][0]
