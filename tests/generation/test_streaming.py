"""Streaming: the pieces make up the answer, and thinking is separated wherever a tag is split."""

from itertools import pairwise

import pytest
from endpoint_server import raw, served, sse
from hypothesis import given
from hypothesis import strategies as st

from qwenlong_core.generation.engine import Sampling
from qwenlong_core.generation.streaming import Piece, split_thinking, stream_local, stream_served
from qwenlong_core.settings.evaluation import ServerSettings

TEXTS = st.lists(st.sampled_from(["<think>", "</think>", "a", "<", "think", ">", "</", "b\n"]), max_size=8).map("".join)


def told_apart(text, thinking):
    """Ten-line reference: walk the whole text from tag to tag."""
    parts = {True: "", False: ""}
    while text:
        tag = "</think>" if thinking else "<think>"
        before, found, text = text.partition(tag)
        parts[thinking] += before
        if found:
            thinking = not thinking
    return parts


@given(text=TEXTS, cuts=st.lists(st.integers(0, 40), max_size=6), thinking=st.booleans())
def test_folding_does_not_depend_on_where_the_pieces_are_cut(text, cuts, thinking):
    edges = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    pieces = [Piece(text[a:b], 1) for a, b in pairwise(edges)]
    parts = list(split_thinking(pieces, thinking))
    expected = told_apart(text, thinking)
    for kind in (True, False):
        assert "".join(part.text for part in parts if part.thinking == kind) == expected[kind]
    assert sum(part.tokens for part in parts) == len(pieces)


def test_what_may_not_be_a_tag_is_not_held_back():
    parts = split_thinking(iter([Piece("a < b", 1), Piece("x", 1)]))
    assert next(parts).text == "a < b"


def stream(server, **changes):
    settings = ServerSettings(base_url=server.url, model="m", max_retries=0, **changes)
    return list(stream_served(settings, "What?", Sampling(0.7, 0.95, 20, seed=3)))


def test_a_servers_pieces_come_with_its_reasoning_in_tags():
    deltas = [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "2 and"},
        {"reasoning_content": " 3"},
        {"content": "It is"},
        {"content": " 5."},
    ]
    with served(lambda n, request: sse(*deltas)) as server:
        pieces = stream(server)
        body = server.requests[0]
    assert "".join(piece.text for piece in pieces) == "<think>2 and 3</think>It is 5."
    assert sum(piece.tokens for piece in pieces) == 4
    assert (body["max_tokens"], body["temperature"], body["top_p"], body["seed"]) == (20, 0.7, 0.95, 3)


def test_a_server_that_fails_is_a_connection_error():
    with (
        served(lambda n, request: raw(b"no", "500 Internal Server Error")) as server,
        pytest.raises(ConnectionError, match=r"the server at http.*HTTP 500"),
    ):
        stream(server)


def test_local_pieces_are_what_generate_gives(tmp_path):
    import torch

    from qwenlong_core.models import import_base, load_policy, load_tokenizer
    from qwenlong_core.settings.model import ModelSettings

    import_base(ModelSettings(name="tiny"), tmp_path)
    model, tokenizer = load_policy(tmp_path, ModelSettings(name="tiny")), load_tokenizer(tmp_path)
    ids = tokenizer("Some words to go on with.")["input_ids"]
    pieces = list(stream_local(model, tokenizer, ids, Sampling(0.0, 1.0, 24)))
    whole = model.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)[0, len(ids) :]
    assert "".join(piece.text for piece in pieces) == tokenizer.decode(whole, skip_special_tokens=True)
    assert len(pieces) > 3 and sum(piece.tokens for piece in pieces) == len(whole)
    again = [list(stream_local(model, tokenizer, ids, Sampling(1.0, 0.95, 12, seed=s))) for s in (1, 1, 2)]
    assert again[0] == again[1] != again[2]
    with pytest.raises(IndexError):  # the thread's failure reaches the caller
        list(stream_local(model, tokenizer, [len(tokenizer) + 5], Sampling(0.0, 1.0, 4)))
