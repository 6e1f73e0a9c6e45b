"""The OpenAI-compatible engine against a real server on loopback, with failures."""

import json

import pytest
from endpoint_server import hang, raw, reset, says, served

from qwenlong_core.generation.engine import Sampling
from qwenlong_core.generation.openai_engine import OpenAIEngine, Request
from qwenlong_core.settings.evaluation import ServerSettings

SAMPLING = Sampling(temperature=0.7, top_p=0.95, max_tokens=50, seed=3)


def engine_of(server, **changes):
    options = dict(base_url=server.url, model="m", concurrency=4, timeout_seconds=5, max_retries=2)
    return OpenAIEngine(ServerSettings(**options | changes))


def ask(server, prompts, **changes):
    """Replies by prompt."""
    requests = [Request(prompt, prompt) for prompt in prompts]
    return {reply.key: reply for reply in engine_of(server, **changes).replies(requests, SAMPLING)}


def test_a_message_goes_to_chat_and_token_ids_to_completions():
    with served(lambda n, request: says(json.dumps(request))) as server:
        found = ask(server, ["What?", (1, 2, 3)])
    chat, plain = (json.loads(reply.completion.text) for reply in (found["What?"], found[1, 2, 3]))
    assert chat["messages"] == [{"role": "user", "content": "What?"}] and "prompt" not in chat
    assert plain["prompt"] == [1, 2, 3] and "messages" not in plain
    for body in (chat, plain):
        assert (body["model"], body["max_tokens"], body["temperature"], body["top_p"]) == ("m", 50, 0.7, 0.95)
    paths = {header.split()[1] for header in server.headers}
    assert paths == {"/v1/chat/completions", "/v1/completions"}


@pytest.mark.parametrize(("given", "mapped"), [("stop", "stop"), ("length", "length")])
def test_finish_reason_and_token_count_are_the_servers(given, mapped):
    with served(lambda n, request: says("It is 5.", finish_reason=given, usage=(9, 4))) as server:
        reply = ask(server, ["q"])["q"]
    assert (reply.completion.text, reply.completion.finish_reason, reply.num_tokens) == ("It is 5.", mapped, 4)
    assert reply.completion.token_ids == () and reply.completion.logprobs is None


@pytest.mark.parametrize(
    ("content", "reasoning", "finish", "text"),
    [
        ("So 5.", "2 + 3", "stop", "<think>\n2 + 3\n</think>\n\nSo 5."),
        (None, "2 + 3 is", "length", "<think>\n2 + 3 is"),
        ("", "2 + 3", "stop", "<think>\n2 + 3\n</think>\n\n"),
    ],
)
def test_thinking_in_a_field_of_its_own_is_put_back(content, reasoning, finish, text):
    with served(lambda n, request: says(content, finish_reason=finish, reasoning_content=reasoning)) as server:
        assert ask(server, ["q"])["q"].completion.text == text


def test_an_empty_answer_is_an_answer():
    with served(lambda n, request: says("")) as server:
        assert ask(server, ["q"])["q"].completion.text == ""


@pytest.mark.parametrize(
    "fault",
    [
        raw(b"busy", "503 Service Unavailable"),
        raw(b"slow down", "429 Too Many Requests", **{"retry-after": "0.2"}),
        raw(b"<html>", "200 OK"),
        raw(b'{"choices": []}'),
        raw(b'{"choices"', declared=100),
        hang,
        reset,
    ],
    ids=["503", "429", "not json", "no choice", "cut", "hang", "reset"],
)
def test_a_fault_that_passes_ends_in_the_answer(fault):
    with served(lambda n, request: says("5") if n else fault) as server:
        reply = ask(server, ["q"], timeout_seconds=3)["q"]
        assert reply.completion.text == "5" and len(server.requests) == 2


def test_a_fault_that_stays_is_an_error_after_three_tries_never_an_answer():
    with served(lambda n, request: raw(b"down", "500 Internal Server Error")) as server:
        reply = ask(server, ["q"])["q"]
        assert len(server.requests) == 3
    assert reply.completion is None and "HTTP 500" in reply.error and "(try 3)" in reply.error


@pytest.mark.parametrize(
    ("respond", "said"),
    [
        (raw(b'{"error": {"message": "too long"}}', "400 Bad Request"), "HTTP 400"),
        (says("I", finish_reason="content_filter"), "finish_reason='content_filter'"),
    ],
)
def test_a_refusal_is_an_error_at_once(respond, said):
    with served(lambda n, request: respond) as server:
        reply = ask(server, ["q"])["q"]
        assert reply.completion is None and said in reply.error and len(server.requests) == 1


def test_no_more_requests_than_allowed_are_open_at_once():
    with served(lambda n, request: says("5", after=0.05)) as server:
        found = ask(server, [f"q{i}" for i in range(24)], concurrency=4)
        assert len(found) == 24 and 2 <= server.most_open <= 4


def test_prompts_are_taken_as_slots_become_free_and_replies_come_as_they_are_done():
    taken = []

    def requests():
        for i in range(100):
            taken.append(i)
            yield Request(i, f"q{i}")

    slow_first = lambda n, request: says("x", after=3 if request["messages"][0]["content"] == "q0" else 0.01)  # noqa: E731
    with served(slow_first) as server:
        replies = engine_of(server, concurrency=2).replies(requests(), SAMPLING)
        assert [next(replies).key for _ in range(3)] == [1, 2, 3]
        replies.close()
    assert len(taken) < 20


def test_each_sample_has_a_seed_of_its_own_and_the_same_the_next_time():
    with served(lambda n, request: says(str(request["seed"]))) as server:
        first, again = (
            [[c.text for c in group] for group in engine_of(server).generate([[1, 2], [3]], 3, SAMPLING)]
            for _ in range(2)
        )
    assert first == again
    assert len({seed for group in first for seed in group}) == 6 and all(0 <= int(s) < 2**31 for g in first for s in g)


def test_generate_gives_all_or_raises():
    with (
        served(lambda n, request: raw(b"no", "400 Bad Request") if request["prompt"] == [3] else says("5")) as server,
        pytest.raises(ConnectionError, match="HTTP 400"),
    ):
        engine_of(server).generate([[1, 2], [3]], 2, SAMPLING)


def test_the_key_comes_from_the_named_variable(monkeypatch):
    monkeypatch.setenv("EVAL_TEST_KEY", "sesame")
    with served(lambda n, request: says("5")) as server:
        ask(server, ["q"], api_key_variable="EVAL_TEST_KEY")
        assert "authorization: bearer sesame" in server.headers[0]
        monkeypatch.delenv("EVAL_TEST_KEY")
        with pytest.raises(ValueError, match=r"evaluation\.server\.api_key_variable='EVAL_TEST_KEY' is not set"):
            engine_of(server, api_key_variable="EVAL_TEST_KEY")
