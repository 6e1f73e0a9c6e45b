"""A flow that fails, and a stage that is tried again, tell a real webhook through a notification block of Prefect."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from prefect import flow
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.testing.utilities import prefect_test_harness
from receivers import webhook

from qwenlong.flows.nightly_eval import nightly_eval
from qwenlong.flows.pipeline_run import PipelineRun
from qwenlong.tasks.specs import prepare_stage
from qwenlong.tasks.stage import RunContext
from qwenlong_core.settings.profiles import load_settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

KEY = "sk-4711"


@pytest.fixture(scope="module", autouse=True)
def prefect_server():
    with prefect_test_harness(server_startup_timeout=600):
        yield


@pytest.fixture
def posts(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with webhook() as (port, received):
        block = CustomWebhookNotificationBlock(
            name="team",
            url=f"http://127.0.0.1:{port}/{{{{key}}}}",
            json_data={"subject": "{{subject}}", "body": "{{body}}"},
            secrets={"key": KEY},
        )
        block.save("team", overwrite=True)
        yield received


def test_a_night_without_a_champion_tells_why(posts):
    state: Any = nightly_eval("smoke", ["notify.to=['custom-webhook/team']"], return_state=True)
    assert state.is_failed()
    [post] = posts
    assert post["subject"].startswith("qwenlong: nightly smoke 20") and post["subject"].endswith(": Failed")
    assert "there is no prepared data" in post["body"] and "/runs/flow-run/" in post["body"]


def test_a_block_that_is_not_there_is_refused_before_the_night(posts):
    with pytest.raises(ValueError, match=r"'custom-webhook/nosuch', a block that Prefect does not have"):
        nightly_eval("smoke", ["notify.to=['custom-webhook/nosuch']"])


def test_a_stage_that_is_tried_again_says_so_and_no_file_holds_the_key(posts, tmp_path):
    settings = load_settings(
        "smoke",
        ["notify.to=['custom-webhook/team']", "execution.retries=1", "execution.retry_delay_seconds=0",
         f"launch.python={tmp_path}/python"],
    )  # fmt: skip
    # It answers what the pipeline asks an interpreter, and cannot run the stage.
    refuses = 'case "$*" in *qwenlong_core.data.prepare*) exit 3;; esac'
    (tmp_path / "python").write_text(f'#!/bin/sh\n{refuses}\nexec {sys.executable} "$@"\n')
    (tmp_path / "python").chmod(0o755)

    @flow
    def one_stage() -> None:
        run = PipelineRun(settings, RunContext(settings=settings, run_id="r1"))
        run.stage_from_refs(prepare_stage(settings).model_copy(update={"deciding_job": {}}), {})

    state: Any = one_stage(return_state=True)
    assert state.is_failed()
    [post] = posts
    assert post["subject"] == "qwenlong: prepare of r1 stopped"
    assert "tried again in 0 s; 1 of 1 retries are left" in post["body"]
    text = json.dumps(settings.model_dump(mode="json"))
    assert "custom-webhook/team" in text and KEY not in text
