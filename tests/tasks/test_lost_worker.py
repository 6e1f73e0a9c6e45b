"""A training whose worker is lost: taken up by another, counted, and its lost minutes shown."""

from __future__ import annotations

import re
import time

import httpx
import psutil
import pytest
from receivers import webhook
from stage_elsewhere import given
from test_elsewhere import Pool, lose, pool, wait_until

from qwenlong.tasks.tracking.client import Tracker

__all__ = ["pool"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_the_training_of_a_worker_that_is_lost_goes_on_and_says_what_was_lost(pool: Pool) -> None:
    """It is frozen for a while after a checkpoint, so that there is work to lose, and then lost with its worker."""
    settings, _ = given(str(pool.home))
    with webhook() as (port, posts):
        pool.environment["OPS_HOOK"] = f"json://127.0.0.1:{port}/"
        worker, waiting = pool.worker(), pool.waiting("training")
        log = pool.home / "worker.log"
        wait_until(lambda: "checkpoint of step 20 is in the store" in log.read_text(), 500, "there is no checkpoint")
        began = time.monotonic()
        frozen = [each for each in psutil.Process(worker.pid).children(recursive=True) if _trains(each)]
        for each in frozen:
            each.suspend()
        assert frozen, "the training is a process of the worker"
        time.sleep(60)
        lose(worker)
        frozen_for = time.monotonic() - began
        pool.worker()
        said = waiting.communicate(timeout=600)[0]
    assert waiting.returncode == 0 and said.splitlines()[-1] == "ran", said[-4000:]
    assert pool.states() == ["Crashed", "Completed"]
    assert ", from checkpoint-" in log.read_text(), "the second worker goes on"

    [post] = posts
    lost = float(re.search(r"About ([\d.]+) minutes of its work are lost", post["message"])[1])
    # A sign of life comes every 20 s, and is seen up to 5 s later.
    assert (frozen_for - 30) / 60 <= lost <= (frozen_for + 30) / 60
    assert "nothing was heard from its process" in post["message"] and "1 of 1 retries are left" in post["message"]
    assert re.search(r"those since the checkpoint of step \d+\. ", post["message"]), post["message"]

    tracker = Tracker(settings.tracking)
    runs = tracker.client.search_runs([tracker.experiment_id], "tags.stage = 'sft'")
    [done] = [run for run in runs if run.info.status == "FINISHED"]
    [dead] = [run for run in runs if run.info.status != "FINISHED"]
    assert done.data.tags["taken_up_again"] == "1" and "taken_up_again" not in dead.data.tags
    assert float(done.data.tags["lost_minutes"]) == pytest.approx(lost, abs=0.06)
    body = {"artifacts": {"key": {"any_": ["stage-sft"]}}}
    [shown] = httpx.post(f"{pool.api}/artifacts/filter", json=body).json()
    assert f"taken up again: 1x, {lost:.1f} minutes of work lost" in shown["data"]


def _trains(process: psutil.Process) -> bool:
    return "qwenlong_core.training.sft" in process.cmdline()
