"""What SFT appends to a prompt: the thinking is opened once, whoever opens it."""

from __future__ import annotations

from typing import Any

import pytest

from qwenlong_core.data.prompts import as_completion, opens_thinking, render_prompt
from qwenlong_core.records import Example

R1_DISTILL = (
    "{% if not add_generation_prompt is defined -%}{%- set add_generation_prompt = false -%}{%- endif -%}"
    "{%- set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='') -%}"
    "{%- for message in messages -%}{%- if message['role'] == 'system' -%}"
    "{%- set ns.system_prompt = message['content'] -%}{%- endif -%}{%- endfor -%}{{bos_token}}{{ns.system_prompt}}"
    "{%- for message in messages -%}{%- if message['role'] == 'user' -%}{%- set ns.is_tool = false -%}"
    "{{'<｜User｜>' + message['content']}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt and not ns.is_tool -%}{{'<｜Assistant｜><think>\\n'}}{%- endif %}"
)
"""The chat template of deepseek-ai/DeepSeek-R1-Distill-Qwen-32B as published (MIT; copy in llama.cpp,
models/templates/), without its branches for tools and earlier answers, which a single question does not reach."""

ROW = Example(
    id="r", source="t", domain="math", answer_type="number", context="Sales were 5.", question="How much?",
    answers=("5",),
)  # fmt: skip


@pytest.mark.parametrize("opening", ["<think>\n", "<think>", "\n<think>\n", ""])
def test_under_the_template_of_r1_the_thinking_is_opened_once(tokenizer: Any, opening: str) -> None:
    tokenizer.chat_template = R1_DISTILL
    prompt = render_prompt(tokenizer, ROW)
    assert opens_thinking(prompt)
    whole = prompt + as_completion(prompt, f"{opening}I read it.\n</think>\n\nTherefore, the answer is 5.")
    assert whole.count("<think>") == whole.count("</think>") == 1
    assert whole.endswith("<think>\nI read it.\n</think>\n\nTherefore, the answer is 5.")


def test_a_solution_that_never_closes_the_thinking_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has no </think>, so all of it would be thinking"):
        as_completion("<think>\n", "Therefore, the answer is 5.")


def test_a_closed_block_takes_no_thinking_and_other_prompts_take_all() -> None:
    solution = "<think>\nI read it.\n</think>\n\nTherefore, the answer is 5."
    assert as_completion("assistant\n<think>\n\n</think>\n\n", solution) == "Therefore, the answer is 5."
    assert as_completion("assistant\n", solution) == solution
