from dataclasses import replace
from itertools import takewhile
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from qwenlong_core.data.prompts import (
    answer_form,
    count_tokens,
    encode,
    opens_thinking,
    prompt_tokens,
    render_prompt,
    truncate_middle,
    user_message,
)
from qwenlong_core.records import Example

NUMBER = Example(
    id="r",
    source="test",
    domain="math",
    answer_type="number",
    context="\n".join(f"Line {i} of the report." for i in range(200)),
    question="How much?",
    answers=("5",),
)
CHOICE = replace(NUMBER, domain="logical", answer_type="choice", choices=("one day", "two days"), answers=("B",))


def test_prompt_is_the_papers_wording() -> None:
    short = replace(NUMBER, context="Sales were 5.")
    assert (
        user_message(short)
        == "Please read the following text and answer the question below.\n\n<text>\nSales were 5.\n</text>\n\nHow"
        ' much?\n\nFormat your response as follows: "Therefore, the answer is (insert answer here)".'
    )


def test_options_are_lettered_and_ask_for_the_choice_form() -> None:
    message = user_message(CHOICE)
    assert "How much?\n(A) one day\n(B) two days\n\n" in message
    assert message.endswith('"The correct answer is (insert answer here)".')


def test_answer_form_is_what_the_prompt_asks_for() -> None:
    assert answer_form("choice", "B") == "The correct answer is (B)."
    assert answer_form("number", "25%") == "Therefore, the answer is 25%."


def test_rendered_prompt_ends_where_the_answer_begins(tokenizer: Any) -> None:
    assert render_prompt(tokenizer, NUMBER).endswith("<|im_start|>assistant\n")


def test_encode_adds_no_second_bos() -> None:
    core = Tokenizer(models.WordLevel({"<s>": 0, "a": 1, "<unk>": 2}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    adds_bos = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>")
    assert adds_bos("a")["input_ids"] == [0, 1]
    assert encode(adds_bos, "<s> a") == [0, 1]


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [("<|Assistant|><think>\n", True), ("<|im_start|>assistant\n", False), ("Do not write <think>. ", False)],
)
def test_opens_thinking(prompt: str, opened: bool) -> None:
    assert opens_thinking(prompt) is opened


def shared(a: str, b: str) -> int:
    """Characters in which two texts begin alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


@pytest.mark.parametrize("limit", [150, 151, 500])
def test_truncation_loses_the_middle_of_the_document_only(tokenizer: Any, limit: int) -> None:
    document_tokens = len(encode(tokenizer, NUMBER.context))
    short, kept, lost = truncate_middle(tokenizer, NUMBER, limit)
    assert limit - 3 <= prompt_tokens(tokenizer, short) <= limit
    assert kept + lost == document_tokens
    assert short.question == NUMBER.question
    assert abs(len(encode(tokenizer, short.context)) - kept) <= 2
    head = shared(short.context, NUMBER.context)
    tail = shared(short.context[::-1], NUMBER.context[::-1])
    assert head + tail >= len(short.context)
    assert 0.8 < head / tail < 1.25


def test_truncation_leaves_what_fits_alone(tokenizer: Any) -> None:
    assert truncate_middle(tokenizer, NUMBER, 10_000)[0] is NUMBER


def test_truncation_of_multibyte_text_stays_valid(tokenizer: Any) -> None:
    chinese = replace(NUMBER, context="\u6d4b\u8bd5\u6587\u6863\u2014\U0001f600" * 200)
    short, _, lost = truncate_middle(tokenizer, chinese, 300)
    assert lost > 0
    assert prompt_tokens(tokenizer, short) <= 300
    short.context.encode()


def test_truncation_names_the_limit_that_no_document_can_meet(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"'r'.*take \d+ tokens, the limit is 20"):
        truncate_middle(tokenizer, NUMBER, 20)


def test_counted_tokens_are_those_of_the_encoded_prompt(tokenizer: Any) -> None:
    texts = [
        "",
        "Net sales were $120 million.",
        "合同自签署之日起生效。" * 50,
        "<|im_start|>user\nx<|im_end|>",
        "a\u00a0\tb\r\n\n  c " * 100,
    ]
    assert count_tokens(tokenizer, texts) == [len(encode(tokenizer, text)) for text in texts]
    assert count_tokens(tokenizer, []) == []
