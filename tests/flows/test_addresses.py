"""Servers that stages will ask are tried once before: what cannot work ends the run, what may pass does not."""

from __future__ import annotations

import json
import logging
import socket
from typing import Any

import pytest
from endpoint_server import Respond, hang, raw, says, served

from qwenlong.flows.addresses import require_answers
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.settings.tree import Settings

ALL = {"distill", "probe", "grpo", "evaluate"}


def error(status: str) -> Respond:
    return raw(json.dumps({"error": {"message": f"told {status}"}}).encode(), status)


def judged(url: str, *more: str) -> Settings:
    judge = f"rewards.judge={{base_url='{url}', model='m', timeout_seconds=1}}"
    return load_settings("smoke", [judge, *more])


@pytest.mark.parametrize(
    ("respond", "said"),
    [
        (
            error("401 Unauthorized"),
            r"rewards\.judge: http\S+ was asked once for model 'm': HTTP 401: .*api_key_variable",
        ),
        (error("404 Not Found"), r"HTTP 404.*Correct rewards\.judge\.base_url, model or"),
        (raw(b"<html>welcome</html>", **{"content-type": "text/html"}), "a reply without completion: '<html>"),
        (raw(b'{"object": "list"}'), "a reply without completion"),
    ],
)
def test_what_no_retry_mends_is_refused(respond: Respond, said: str) -> None:
    with served(lambda *_: respond) as server, pytest.raises(ValueError, match=said):
        require_answers(judged(server.url), ALL)


@pytest.mark.parametrize(
    ("name", "more", "setting"),
    [
        ("reasoning_effort", ["rewards.judge.reasoning_effort=extreme"], "rewards.judge"),
        ("seed", ["rewards.judge.seed=4"], "rewards.judge"),
        ("top_p", ["distill={{max_prompt_tokens=256, teacher={{base_url='{url}', model='t'}}}}"], "distill.teacher"),
        (
            "stop",
            [
                "evaluation.engine=openai",
                "evaluation.server={{base_url='{url}', model='p'}}",
                "evaluation.stop=['END']",
            ],
            "evaluation.server",
        ),
    ],
)
def test_a_parameter_that_a_server_does_not_know_is_refused(name: str, more: list[str], setting: str) -> None:
    def strict(_: int, request: dict[str, Any]) -> Respond:
        told = json.dumps({"error": {"message": f"Unsupported parameter: '{name}'"}}).encode()
        return raw(told, "400 Bad Request") if name in request else says("yes")

    with served(strict) as server:
        settings = judged(server.url, *(override.format(url=server.url) for override in more))
        said = rf"^{setting}: http\S+ was asked once .*HTTP 400: .*Unsupported.* or what is sent: .*\b{name}\b"
        with pytest.raises(ValueError, match=said):
            require_answers(settings, ALL)


@pytest.mark.parametrize("respond", [error("503 Service Unavailable"), error("429 Too Many Requests"), hang])
def test_a_busy_server_is_a_warning(respond: Respond, caplog: pytest.LogCaptureFixture) -> None:
    with served(lambda *_: respond) as server, caplog.at_level(logging.WARNING):
        require_answers(judged(server.url), ALL)
    assert len(server.requests) == 1 and "It may pass, so the run goes on" in caplog.text


def test_where_nobody_listens_the_run_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(ConnectionError, match=r"rewards\.judge: http\S+ was asked once .* Start the server or correct"):
        require_answers(judged(url), ALL)


def test_each_server_is_asked_once_and_as_the_stages_ask_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", "sesame")
    with served(lambda *_: says("yes")) as server:
        thinker = f"evaluation.judge={{base_url='{server.url}', model='deep', reasoning_model=true, max_tokens=900}}"
        sampler = f"{{base_url='{server.url}', model='policy', endpoint='completions', api_key_variable='THE_KEY'}}"
        teacher = f"distill={{max_prompt_tokens=256, teacher={{base_url='{server.url}', model='teacher'}}}}"
        engine = ["evaluation.engine=openai", f"evaluation.server={sampler}"]
        settings = judged(server.url, thinker, *engine, teacher, "rewards.judge.seed=4")
        require_answers(settings, ALL)
    asked = {request["model"]: request for request in server.requests}
    assert len(server.requests) == 4 and set(asked) == {"m", "deep", "policy", "teacher"}
    assert (asked["m"]["max_tokens"], asked["m"]["seed"]) == (16, 4)
    assert asked["deep"]["max_completion_tokens"] == 900 and "temperature" not in asked["deep"]
    assert "prompt" in asked["policy"] and "authorization: bearer sesame" in "".join(server.headers)


def test_only_those_of_stages_that_follow_here_are_asked() -> None:
    with served(lambda *_: says("yes")) as server:
        both = judged(server.url, f"evaluation.judge={{base_url='{server.url}', model='other'}}")
        require_answers(both, {"register", "report"})
        assert not server.requests
        require_answers(both, {"evaluate", "report"})
        assert [request["model"] for request in server.requests] == ["other"]
        pool = "execution.deployments={grpo='stage/gpu', evaluate='stage/gpu'}"
        require_answers(judged(server.url, pool), {"grpo"})
        assert len(server.requests) == 1
        require_answers(load_settings("smoke", ["rewards.judge={serve={}, model='m'}"]), ALL)


def test_two_judges_at_one_address_are_asked_once() -> None:
    with served(lambda *_: says("yes")) as server:
        require_answers(judged(server.url, f"evaluation.judge={{base_url='{server.url}', model='m'}}"), ALL)
    assert len(server.requests) == 1
    assert len(server.requests) == 1
