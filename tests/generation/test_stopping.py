"""Stop strings: as transformers' own at temperature 0, in whole groups, and as each engine gets them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_model
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from qwenlong_core.bundled import bundled_tokenizer
from qwenlong_core.generation.engine import Sampling
from qwenlong_core.generation.openai_engine import OpenAIEngine, Request
from qwenlong_core.generation.stopping import StopStrings
from qwenlong_core.generation.transformers_engine import TransformersEngine
from qwenlong_core.settings.evaluation import ServerSettings

TOKENIZER = bundled_tokenizer()


@pytest.mark.parametrize(("first", "length"), [(30, 2), (51, 9), (73, 1)])
def test_greedy_ends_where_transformers_ends(first: int, length: int) -> None:
    model = tiny_model(vocab=len(TOKENIZER))
    engine = TransformersEngine(model, TOKENIZER)
    prompt = TOKENIZER.encode("The river rose")
    [[whole]] = engine.generate([prompt], 1, Sampling(0.0, 1.0, 40))
    stop = whole.text[first : first + length]  # wherever it is within the tokens
    [[ours]] = engine.generate([prompt], 1, Sampling(0.0, 1.0, 40, stop=("nowhere in it", stop)))
    ids = torch.tensor([prompt])
    theirs = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=40,
        tokenizer=TOKENIZER,
        stop_strings=["nowhere in it", stop],
    )
    assert list(ours.token_ids) == theirs[0, len(prompt) :].tolist()
    assert len(ours.token_ids) < len(whole.token_ids)
    assert ours.finish_reason == "stop"
    assert stop in ours.text
    assert len(ours.logprobs) == len(ours.token_ids)


def test_each_row_of_a_group_ends_by_itself() -> None:
    engine = TransformersEngine(tiny_model(vocab=len(TOKENIZER)), TOKENIZER)
    prompt = TOKENIZER.encode("The river rose")
    free, stopped = (
        engine.generate([prompt], 8, Sampling(1.0, 1.0, 25, seed=1, stop=stop))[0] for stop in ((), ("e",))
    )
    assert {c.finish_reason for c in stopped} == {"stop", "length"} or len({len(c.token_ids) for c in stopped}) > 1
    for a, b in zip(free, stopped):
        assert a.token_ids[: len(b.token_ids)] == b.token_ids  # the draws are the same up to the end
        assert b.finish_reason == ("stop" if "e" in b.text or b.token_ids[-1] in engine.stop_ids else "length")
        assert "e" not in TOKENIZER.decode(b.token_ids[:-1], skip_special_tokens=True)


@settings(max_examples=60, deadline=None)
@given(text=st.text(min_size=1, max_size=40), first=st.integers(0, 39), length=st.integers(1, 6))
def test_a_string_is_found_at_the_token_that_completes_it(text: str, first: int, length: int) -> None:
    ids = TOKENIZER.encode(text)
    decoded = TOKENIZER.decode(ids, skip_special_tokens=True)
    stop = decoded[first % len(decoded) :][:length] if decoded else "x"
    ends = [n for n in range(1, len(ids) + 1) if stop in TOKENIZER.decode(ids[:n], skip_special_tokens=True)]
    stops = StopStrings(TOKENIZER, (stop,))
    assert [n for n in range(1, len(ids) + 1) if stops(ids[:n])][:1] == ends[:1]


def test_a_space_is_found_where_the_tokenizer_drops_a_first_one() -> None:
    """Like Llama 2's tokenizer, whose words begin with a mark for the space before them."""
    words = ["▁the", "▁", "a"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="a"))
    backend.decoder = decoders.Metaspace()
    stops = StopStrings(PreTrainedTokenizerFast(tokenizer_object=backend), (" a",))
    assert [n for n in range(1, 5) if stops([0, 0, 1, 2][:n])] == [4]
    assert not stops([1, 2])  # the text of these is "a"


def test_a_server_is_told() -> None:
    engine = OpenAIEngine(ServerSettings(base_url="http://127.0.0.1:9/v1", model="m"))
    bodies = [engine._body(Request(0, "hello", 0), Sampling(0.0, 1.0, 8, stop=stop)) for stop in ((), ("\n\n",))]
    assert [body.get("stop") for body in bodies] == [None, ["\n\n"]]
