"""A run that was killed in its second phase is started again from there in Prefect's own form, without typing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from browser import chromium, missing
from serving import ask, deployment, flow_runs, kill_stage, made_in, restart_in_browser, serving, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]

PROFILE = """
[model]
name = "tiny"
[data]
generate_sft = [{ min_tokens = 190, max_tokens = 256, rows = 4 }]
generate_train = [
    { min_tokens = 190, max_tokens = 256, rows = 4 },
    { min_tokens = 257, max_tokens = 384, rows = 4 },
]
generate_eval = [{ min_tokens = 190, max_tokens = 384, rows = 4 }]
[sft]
max_tokens = 384
epochs = 1
batch_size = 4
micro_batch_size = 4
[grpo]
group_size = 2
batch_size = 2
mini_batch_size = 2
dynamic_sampling = { max_rounds = 1 }
phases = [
    { max_prompt_tokens = 256, max_completion_tokens = 16, cache_tokens = 8, steps = 1, evaluate = false },
    { max_prompt_tokens = 384, max_completion_tokens = 16, cache_tokens = 8, steps = 1 },
]
[evaluation]
max_prompt_tokens = 384
max_completion_tokens = 16
batch_size = 4
bootstrap_resamples = 100
[execution]
retries = 0
[storage]
uri = ".qwenlong/artifacts"
work_dir = ".qwenlong/work"
runs_dir = ".qwenlong/runs"
[tracking]
uri = "sqlite:///.qwenlong/mlflow.db"
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("form")
    (folder / "mine.toml").write_text(PROFILE)
    return folder


@pytest.fixture(scope="module")
def pages(home) -> Iterator[dict[str, str]]:
    """Addresses of what is served with a profile of one's own."""
    with serving(home, "--profile", "mine.toml") as found:
        yield found


def test_a_killed_run_goes_on_from_its_phase_by_a_choice_and_a_submit(home, pages):
    found = deployment(pages, "full-pipeline")
    assert found["parameters"]["profile"] == "mine.toml"
    first = ask(pages, f"deployments/{found['id']}/create_flow_run")["id"]
    kill_stage(home, "grpo-2")
    assert wait_for(pages, first, "FAILED", "COMPLETED")["state"]["type"] == "FAILED"

    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 1600})
        page.set_default_timeout(60_000)
        assert "qwenlong run --profile mine.toml" in restart_in_browser(page, pages, first, "grpo-2")

    [second] = [run for run in flow_runs(pages, "qwenlong") if run["id"] != first]
    assert (second["parameters"]["profile"], second["parameters"]["start"]) == ("mine.toml", "grpo-2")
    assert wait_for(pages, second["id"], "FAILED", "COMPLETED")["state"]["type"] == "COMPLETED"
    made = made_in(pages, second["id"])
    assert "grpo-2" in made and not made & {"base", "prepare", "grpo-1"}, "what is before it is taken over"


def test_the_form_refuses_what_no_profile_has(pages):
    form = f"{pages['api']}/deployments/{deployment(pages, 'full-pipeline')['id']}/create_flow_run"
    wrong = (
        {"profile": "nosuch"},
        {"start": "grpo-9"},
        {"settings": {"grpo.group_size": 1}},
        {"settings": {"grpo.engine": "x"}},
    )
    for parameters in wrong:
        answer = httpx.post(form, json={"parameters": parameters})
        assert answer.status_code in (409, 422), (parameters, answer.text)
